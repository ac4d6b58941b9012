'use strict';
// A worker of the older system, as IPCLUSTER's wire protocol describes it, with Node's own modules
// alone: it picks its port, connects to the control socket that it knows, says where it listens, pings,
// obeys, and reconnects when the master is gone.
//
// Tests have it misbehave by variables: OLDER_FIELDS (JSON) replaces fields of what it says of itself,
// OLDER_DEAF names an order that it does not answer, OLDER_TWICE has it connect a second time, OLDER_HOLD_MIB has it
// use so much memory, OLDER_LINGERS has it say that it ends, and not do so.

const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');

const { env, pid } = process;
if (env.__ZWORKER__ !== 'TRUE') throw new Error('not started by a master');
const band = Number(env.__ZWORKER__BAND__);
const generation = env.IPCLUSTER_GENERATION || '0';
const extra = process.argv[process.argv.length - 1];
if (extra !== `${band}:${env.__ZWORKER__NUM_WORKERS__}`) throw new Error(`last argument ${extra}`);

const UDS = path.join(env.TMPDIR || os.tmpdir(), `${os.hostname()}.zsocket`);
const PING_INTERVAL = 500;
const RECONNECT_INTERVAL = 50;
const WARM_UP = 45;
const replaced = JSON.parse(env.OLDER_FIELDS || '{}');
globalThis.held = Buffer.alloc((Number(env.OLDER_HOLD_MIB) || 0) * 1024 * 1024, 1);

const portmap = {};
let socket = null;
let attempts = 0;
let messageID = 0;
let retired = null;
let mute = false;

const say = (text) => fs.writeSync(1, `${text}\n`);

function memory() {
    const young = process.uptime() < WARM_UP;
    const usage = process.memoryUsage();
    return Object.fromEntries(Object.keys(usage).map((key) => [key, young ? 1 : usage[key]]));
}

function facts() {
    const all = {
        ts_sent: Date.now(), pid, mem: memory(), toobusy: false, lag: 0.25, uptime: process.uptime(),
        portmap, band, conn: { state: 'connected', connection_attempts: attempts },
        app: { name: 'older' },
    };
    if (retired !== null) all.ts_retirement = retired;
    return { ...all, ...replaced };
}

const send = (message) => socket && !mute && socket.write(`${JSON.stringify(message)}\n`);

function request(kind, reason) {
    messageID += 1;
    send({ __type: 'request', __request: kind, __messageID: messageID, reason, details: { pid } });
}

function obey(command) {
    say(`order ${command.__cmd}`);
    if (env.OLDER_DEAF === command.__cmd) return;
    const answer = { __type: 'response', __messageID: command.__messageID, __status: 'ok' };
    if (command.__cmd === 'info') Object.assign(answer, facts());
    send(answer);
    if (command.__cmd === 'retire') retired = Date.now();
    if (command.__cmd === 'die' && !env.OLDER_LINGERS) socket.end(() => process.exit(0));
}

// Calls `handle` with each object that comes, one a line, however the bytes are split.
function lines(stream, handle) {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
        const parts = (rest + text).split(/[\r\n]+/);
        rest = parts.pop();
        parts.filter(Boolean).forEach((line) => handle(JSON.parse(line)));
    });
}

function connect() {
    attempts += 1;
    const stream = net.connect(UDS);
    let joined = false;
    let pings = null;
    stream.on('connect', () => {
        socket = stream;
        messageID += 1;
        send({ __type: 'info', __messageID: messageID, ...facts() });
    });
    lines(stream, (message) => {
        if (message.__type === 'response' && !joined) {
            joined = message.__status === 'ok';
            say(joined ? 'joined' : `refused: ${message.reason}`);
            if (!joined) return;
            pings = setInterval(() => send({ __type: 'ping', ...facts() }), PING_INTERVAL);
            if (env.OLDER_TWICE) second();
        } else if (message.__type === 'command' && joined) {
            obey(message);
        } else if (message.__type === 'response') {
            say(`answer ${message.__status}`);
        }
    });
    stream.on('error', () => {});
    stream.on('close', () => {
        clearInterval(pings);
        if (socket === stream) socket = null;
        if (joined) say('parted');
        setTimeout(connect, RECONNECT_INTERVAL);
    });
}

// A second connection of the same worker beside the first.
function second() {
    delete env.OLDER_TWICE;
    const stream = net.connect(UDS);
    stream.on('connect', () => {
        stream.write(`${JSON.stringify({ __type: 'info', __messageID: 1, ...facts() })}\n`);
    });
    lines(stream, (message) => say(`second: ${message.__status} ${message.reason || ''}`));
    stream.on('error', () => {});
}

// Without its master the older library takes note of these signals, and does nothing (its lib/worker.js).
process.on('SIGUSR1', () => (socket ? request('retire', 'SIGUSR1') : say('SIGUSR1 without a master')));
process.on('SIGUSR2', () => (socket ? process.exit(0) : say('SIGUSR2 without a master')));
// It neither says nor reads anything until the next one, and goes on to serve.
process.on('SIGHUP', () => {
    mute = !mute;
    if (mute) socket.pause();
    else socket.resume();
});
process.on('SIGTERM', () => {
    say('SIGTERM');
    process.exit(0);
});

// Answers who it is; `GET /hold` keeps the connection, and echoes what is said on it from then on.
function serve(client) {
    const body = `${pid} ${band} ${generation}\n`;
    let head = '';
    client.on('error', () => {});
    client.on('data', function read(bytes) {
        head += bytes.toString('latin1');
        if (!head.includes('\r\n\r\n')) return;
        client.removeListener('data', read);
        client.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
        if (head.startsWith('GET /hold')) client.on('data', (more) => client.write(more));
        else client.end();
    });
}

const servers = (env.OLDER_PUBLIC || '80').split(',').map((port) => new Promise((listening) => {
    const server = net.createServer(serve);
    server.listen(0, '::', 511, () => {
        portmap[port] = server.address().port;
        listening();
    });
}));
Promise.all(servers).then(connect);
