// An HTTP server of node and bun without a handler of signals: / answers at once, /slow after 2 s.
const { createServer } = require("node:http");

const server = createServer((request, response) => {
    setTimeout(() => response.end("hello\n"), request.url === "/slow" ? 2000 : 0);
});
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: process.env.PORT, host: "0.0.0.0" });
