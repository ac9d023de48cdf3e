"""What one plugin offers another without either importing the other: typed keys and the interfaces behind them."""

from gatehook.services.database import DATABASE, Database
from gatehook.services.directory import DIRECTORY, Directory
from gatehook.services.files import FILES, FileStore, StoredFile
from gatehook.services.jobs import JOBS, JobQueue
from gatehook.services.ledger import LEDGER, Ledger, Posting
from gatehook.services.local_models import LOCAL_MODELS, LocalLimits, LocalModel, LocalModels
from gatehook.services.metrics import METRICS, MetricsPage
from gatehook.services.quotas import QUOTAS, Quotas, Reserve
from gatehook.services.registry import ServiceKey, Services
from gatehook.services.routing import BALANCING, CATALOG, HEALTH, Balancing, Catalog, DeploymentHealth

__all__ = [
    "BALANCING",
    "CATALOG",
    "DATABASE",
    "DIRECTORY",
    "FILES",
    "HEALTH",
    "JOBS",
    "LEDGER",
    "LOCAL_MODELS",
    "METRICS",
    "QUOTAS",
    "Balancing",
    "Catalog",
    "Database",
    "DeploymentHealth",
    "Directory",
    "FileStore",
    "JobQueue",
    "Ledger",
    "LocalLimits",
    "LocalModel",
    "LocalModels",
    "MetricsPage",
    "Posting",
    "Quotas",
    "Reserve",
    "ServiceKey",
    "Services",
    "StoredFile",
]
