// Says which worker answers; pm2 starts some of it in its cluster mode.
const { createServer } = require("node:http");

const [host, port] = process.env.HOST_AND_PORT.split(":");
const server = createServer((request, response) => {
    const body = `${process.pid} 0 0\n`;
    response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": body.length });
    response.end(body);
});
server.keepAliveTimeout = 60_000;
server.listen({ host, port, backlog: 4096 });
