"""Alembic, driven from code: each plugin has its own revisions, and its own table that says how far they have gone."""

from importlib import import_module

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from gatehook import StartupError
from gatehook_plugins.database.revisions import version_table

__all__ = ["history", "upgrade"]


def history(package: str) -> ScriptDirectory:
    """The revisions in `package`.versions, read. Blocks."""
    scripts = ScriptDirectory(next(iter(import_module(package).__path__)))
    scripts.get_heads()  # reads them all, now rather than within the transaction
    return scripts


def upgrade(connection: Connection, name: str, scripts: ScriptDirectory) -> str:
    """Run the revisions that the tables of plugin `name` lack, in the connection's transaction.

    Tells what the tables are once that is committed; "" if they lacked none.

    Raises:
        StartupError: the tables are newer than the revisions.
    """
    became = ""

    def steps(current: tuple[str, ...], context: MigrationContext) -> list[RevisionStep]:
        nonlocal became
        known = {script.revision for script in scripts.walk_revisions()}
        if newer := sorted(set(current) - known):
            raise StartupError(
                f"the tables of plugin {name!r} are at revision {', '.join(newer)}, which this version does not know: "
                "a newer one has been here; install that, or restore a backup from before"
            )
        # What alembic's own commands do; it has no other name.
        todo = scripts._upgrade_revs("head", current)  # type: ignore[arg-type]  # noqa: SLF001
        if todo:
            became = "brought up to date" if current else "made"
        return todo

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev="head") as environment:
        environment.configure(connection=connection, version_table=version_table(name), render_as_batch=True)
        environment.run_migrations()
    return became
