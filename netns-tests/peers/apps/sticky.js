// Node's cluster with @socket.io/sticky: the first process takes connections, looks at the beginning of each
// request, and passes the connection on.
const cluster = require("node:cluster");
const { createServer } = require("node:http");
const { setupMaster, setupWorker } = require("@socket.io/sticky");
const { Server } = require("socket.io");

const [host, port] = process.env.HOST_AND_PORT.split(":");
if (cluster.isPrimary) {
    // It passes bytes, which are not whole as JSON.
    cluster.setupPrimary({ serialization: "advanced" });
    const server = createServer();
    setupMaster(server, { loadBalancingMethod: "least-connection" });
    for (let count = Number(process.argv[2]); count > 0; count -= 1) cluster.fork();
    cluster.on("exit", () => cluster.fork());
    server.listen({ host, port, backlog: 4096 });
} else {
    const server = createServer((request, response) => {
        const body = `${process.pid} 0 0\n`;
        response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": body.length });
        response.end(body);
    });
    server.keepAliveTimeout = 60_000;
    setupWorker(new Server(server));
    process.on("SIGTERM", () => process.exit(0));
}
