"""A server made with the official library: `real_server.py stdio`, or `real_server.py http PORT`."""

import asyncio
import os
import sys

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("real")


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


@server.tool()
def say(text: str) -> str:
    """Says it again."""
    return text


@server.tool()
def environment(name: str) -> str:
    """A variable of the server's environment."""
    return os.environ.get(name, "(not set)")


@server.tool()
def header(name: str, ctx: Context) -> str:
    """A header of the request."""
    return (ctx.headers or {}).get(name, "(none)")


@server.tool(structured_output=False)
def picture() -> list[Image | str]:
    """A picture and a word."""
    return ["look:", Image(data=b"\x89PNG" + b"x" * 96, format="png")]


@server.tool()
def fail(reason: str) -> str:
    """Fails."""
    raise ToolError(reason)


@server.tool()
def end() -> str:
    """Ends the server, in the middle of the call."""
    os._exit(3)


@server.tool()
async def wait() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return ""


@server.tool(name="delete.everything at once, whatever it is, with a name that is far too long")
def delete() -> str:
    """Deletes."""
    return "gone"


@server.tool()
async def learn(ctx: Context) -> str:
    """Adds a tool, or removes it if it is there."""

    def learned() -> str:
        return "new"

    if any(tool.name == "learned" for tool in await server.list_tools()):
        server.remove_tool("learned")
    else:
        server.add_tool(learned, "learned", description="Is new.")
    await ctx.notify_tools_changed()
    return "learned"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run()
    else:
        server.run("streamable-http", port=int(sys.argv[2]))
