// The server of readers: what pages call `server.js`.
require('http').createServer((request, response) => {
    response.end(`seat ${process.env.IPCLUSTER_SEAT} of generation ${process.env.IPCLUSTER_GENERATION}\n`);
}).listen(process.env.PORT);
