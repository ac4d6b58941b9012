// The server of app.js with the handler that an application should have: from SIGTERM on each answer says
// that it is the last one of its connection, and no connection is closed between two requests. What has
// no request for 3 s is closed then.
const { createServer } = require("node:http");

let ends = false;
const server = createServer((request, response) => {
    if (ends) response.setHeader("Connection", "close");
    setTimeout(() => {
        if (ends && !response.headersSent) response.setHeader("Connection", "close");
        response.end("hello\n");
    }, request.url === "/slow" ? 2000 : 0);
});
process.on("SIGTERM", () => {
    if (ends) return;
    ends = true;
    setTimeout(() => server.close(() => process.exit(0)), 3000);
});
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: process.env.PORT, host: "0.0.0.0" });
