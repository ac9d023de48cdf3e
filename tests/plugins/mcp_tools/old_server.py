"""A server of the protocol of 2025 over stdin and stdout, by hand: it tells of changes, and has odd tools."""

import json
import sys

SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}
TOOLS = [
    {"name": "first", "description": "Is first.", "inputSchema": SCHEMA},
    {"name": "fi.rst", "description": "Would be called as another.", "inputSchema": SCHEMA},
    {"name": "fi rst", "description": "Would be called as another.", "inputSchema": SCHEMA},
]


def send(message: object) -> None:
    print(json.dumps(message), flush=True)


for line in sys.stdin:
    request = json.loads(line)
    method, number = request.get("method"), request.get("id")
    if number is None:
        continue
    reply: dict[str, object] = {"jsonrpc": "2.0", "id": number}
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}}
        info = {"name": "old", "version": "1"}
        reply["result"] = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
    elif method == "tools/list":
        cursor = (request.get("params") or {}).get("cursor")
        # One tool on each page.
        page = int(cursor or 0)
        reply["result"] = {"tools": TOOLS[page : page + 1]}
        if page + 1 < len(TOOLS):
            reply["result"] = {"tools": TOOLS[page : page + 1], "nextCursor": str(page + 1)}
    elif method == "tools/call":
        if request["params"]["name"] == "first":
            TOOLS.append({"name": "second", "inputSchema": {"type": "object"}})
            send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        reply["result"] = {"content": [{"type": "text", "text": request["params"]["arguments"].get("text", "")}]}
    else:
        reply["error"] = {"code": -32601, "message": "no such method"}
    send(reply)
