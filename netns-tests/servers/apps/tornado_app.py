"""tornado: / answers at once, /slow after 2 s. From SIGTERM on each answer says that it is the last one of
its connection, for 3 s; then the server ends."""

import asyncio
import os
import signal
import socket

import tornado.web

ends = asyncio.Event()


class Answer(tornado.web.RequestHandler):
    async def get(self, path):
        if path == "slow":
            await asyncio.sleep(2)
        if ends.is_set():
            self.set_header("Connection", "close")
        self.write("hello\n")


async def main():
    server = tornado.httpserver.HTTPServer(tornado.web.Application([(r"/(.*)", Answer)]))
    if "LISTEN_FDS" in os.environ:
        listener = socket.socket(fileno=3)
        listener.setblocking(False)
        server.add_socket(listener)
    else:
        server.listen(int(os.environ["PORT"]), "0.0.0.0")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    await ends.wait()
    server.stop()
    await asyncio.sleep(3)
    await server.close_all_connections()


asyncio.run(main())
