"""aiohttp: / answers at once, /slow after 2 s."""

import asyncio
import os
import socket

from aiohttp import web


async def answer(request):
    if request.path == "/slow":
        await asyncio.sleep(2)
    return web.Response(text="hello\n")


app = web.Application()
app.router.add_get("/{path:.*}", answer)
if "LISTEN_FDS" in os.environ:
    web.run_app(app, sock=socket.socket(fileno=3), access_log=None)
else:
    web.run_app(app, host="0.0.0.0", port=int(os.environ["PORT"]), access_log=None)
