//! The servers that are measured.

use super::measurement::Way;

/// A server, and how it is started as a worker.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name in the page and of its cases.
    pub(crate) name: &'static str,
    /// The name of its preset.
    pub(crate) preset: &'static str,
    /// The command that prints its version.
    pub(crate) version: &'static str,
    /// Its command. `{dir}` is the directory with its files, `{where}` the place of the arguments that say
    /// where it listens.
    pub(crate) command: &'static str,
    /// The arguments that give it a port.
    pub(crate) port: &'static str,
    /// The arguments that give it the passed socket; `None` where it takes none.
    pub(crate) socket: Option<&'static str>,
    /// Whether its preset adds those arguments.
    pub(crate) told_by_preset: bool,
    /// Further settings of the cluster, with the preset.
    pub(crate) settings: &'static str,
    /// Variables of its environment, by name and value, for a port and for a passed socket.
    pub(crate) environment: [&'static str; 2],
    /// Whether it cannot run as root without capabilities.
    pub(crate) other_user: bool,
    /// What its clients speak.
    pub(crate) speaks: Speaks,
    /// In which ways CI measures it.
    pub(crate) in_ci: &'static [Way],
}

/// A protocol of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1.
    Http,
    /// FastCGI: a proxy stands between it and the clients, which asks from the address of each.
    FastCgi,
    /// gRPC: the clients are those of `grpc_client.py`.
    Grpc,
}

const SERVER: Server = Server {
    name: "",
    preset: "",
    version: "",
    command: "",
    port: "",
    socket: None,
    told_by_preset: false,
    settings: "",
    environment: ["", ""],
    other_user: false,
    speaks: Speaks::Http,
    in_ci: &[],
};

/// All of them, in the order of the page.
pub(crate) const SERVERS: &[Server] = &[
    Server {
        name: "gunicorn",
        told_by_preset: true,
        preset: "gunicorn",
        version: "gunicorn --version",
        port: "-b 0.0.0.0:{port}",
        command: "gunicorn {where} -k gthread --threads 16 wsgi:app",
        socket: Some(""),
        in_ci: &[Way::Port, Way::Tproxy],
        ..SERVER
    },
    Server {
        name: "gunicorn-sync",
        told_by_preset: true,
        preset: "gunicorn",
        version: "gunicorn --version",
        port: "-b 0.0.0.0:{port}",
        command: "gunicorn {where} -w 8 wsgi:app",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "uvicorn",
        told_by_preset: true,
        preset: "uvicorn",
        version: "uvicorn --version",
        command: "uvicorn {where} --no-access-log asgi:app",
        port: "--host 0.0.0.0 --port {port}",
        socket: Some("--fd 3"),
        in_ci: &[Way::Sockets],
        ..SERVER
    },
    Server {
        name: "hypercorn",
        told_by_preset: true,
        preset: "hypercorn",
        version: "pip show hypercorn",
        command: "hypercorn {where} asgi:app",
        port: "-b 0.0.0.0:{port}",
        socket: Some("-b fd://3"),
        ..SERVER
    },
    Server {
        name: "granian",
        told_by_preset: true,
        preset: "granian",
        version: "granian --version",
        command: "granian {where} --interface asgi asgi:app",
        port: "--host 0.0.0.0 --port {port}",
        ..SERVER
    },
    Server {
        name: "waitress",
        told_by_preset: true,
        preset: "waitress",
        version: "pip show waitress",
        command: "waitress-serve {where} --threads=16 wsgi:app",
        port: "--listen=0.0.0.0:{port}",
        ..SERVER
    },
    Server {
        name: "uwsgi",
        told_by_preset: true,
        preset: "uwsgi",
        version: "uwsgi --version",
        command: "uwsgi {where} --plugin python3 --master --processes 8 --wsgi-file {dir}/wsgi.py",
        port: "--http-socket 0.0.0.0:{port}",
        socket: Some("--http-socket fd://3"),
        ..SERVER
    },
    Server {
        name: "daphne",
        told_by_preset: true,
        preset: "daphne",
        version: "pip show daphne",
        command: "daphne {where} asgi:app",
        port: "-b 0.0.0.0 -p {port}",
        socket: Some("--fd 3"),
        ..SERVER
    },
    Server {
        name: "puma",
        told_by_preset: true,
        preset: "puma",
        version: "puma --version",
        command: "puma {where} -t 16:16 {dir}/config.ru",
        port: "-b tcp://0.0.0.0:{port}",
        socket: Some("-b tcp://0.0.0.0:{port}"),
        ..SERVER
    },
    Server {
        name: "unicorn",
        told_by_preset: true,
        preset: "unicorn",
        version: "unicorn --version",
        command: "unicorn {where} -c {dir}/unicorn.rb {dir}/config.ru",
        port: "-l 0.0.0.0:{port}",
        socket: Some("-l 0.0.0.0:{port}"),
        ..SERVER
    },
    Server {
        name: "nginx",
        environment: ["", "NGINX=3;"],
        preset: "nginx",
        version: "nginx -v",
        command: "nginx -p {dir} -c {config}",
        socket: Some(""),
        in_ci: &[Way::Sockets],
        ..SERVER
    },
    Server {
        name: "apache",
        preset: "apache",
        version: "apache2 -v",
        command: "apache2 -D FOREGROUND -f {dir}/apache.conf",
        other_user: true,
        ..SERVER
    },
    Server {
        name: "haproxy",
        environment: ["BIND=0.0.0.0:{port}", "BIND=fd@3"],
        preset: "haproxy",
        version: "haproxy -v",
        command: "haproxy -db -f {dir}/haproxy.cfg",
        socket: Some(""),
        in_ci: &[Way::Port],
        ..SERVER
    },
    Server {
        name: "lighttpd",
        preset: "lighttpd",
        version: "lighttpd -v",
        command: "lighttpd -D {where}",
        port: "-f {dir}/lighttpd.conf",
        socket: Some("-f {dir}/lighttpd-socket.conf"),
        ..SERVER
    },
    Server {
        name: "caddy",
        preset: "caddy",
        version: "caddy version",
        command: "caddy run --adapter caddyfile --config {dir}/Caddyfile",
        ..SERVER
    },
    Server {
        name: "php",
        preset: "php",
        version: "php --version",
        command: "php -S 0.0.0.0:{port} {dir}/index.php",
        ..SERVER
    },
    Server {
        name: "php-fpm",
        environment: ["", "FPM_SOCKETS=0.0.0.0:{port}=3"],
        told_by_preset: true,
        preset: "php-fpm",
        version: "php-fpm8.2 -v",
        command: "php-fpm8.2 -O -y {dir}/php-fpm.conf",
        socket: Some(""),
        other_user: true,
        speaks: Speaks::FastCgi,
        ..SERVER
    },
    Server {
        name: "node",
        preset: "node",
        version: "node --version",
        command: "node {dir}/app.js",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "node-graceful",
        settings: "--retire-signal TERM",
        preset: "node",
        version: "node --version",
        command: "node {dir}/graceful.js",
        socket: Some(""),
        in_ci: &[Way::Port],
        ..SERVER
    },
    Server {
        name: "bun",
        preset: "bun",
        version: "bun --version",
        command: "bun {dir}/app.js",
        ..SERVER
    },
    Server {
        name: "bun-graceful",
        settings: "--retire-signal TERM",
        preset: "bun",
        version: "bun --version",
        command: "bun {dir}/graceful.js",
        ..SERVER
    },
    Server {
        name: "deno",
        settings: "--retire-signal TERM",
        preset: "deno",
        version: "deno --version",
        command: "deno serve {where} {dir}/deno.ts",
        port: "--host 0.0.0.0 --port {port}",
        ..SERVER
    },
    Server {
        name: "go",
        preset: "go",
        version: "go version",
        command: "go-server",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "go-graceful",
        settings: "--retire-signal TERM",
        preset: "go",
        version: "go version",
        command: "go-server graceful",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "aiohttp",
        preset: "aiohttp",
        version: "pip show aiohttp",
        command: "python {dir}/aiohttp_app.py",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "tornado",
        settings: "--retire-signal TERM",
        preset: "tornado",
        version: "pip show tornado",
        command: "python {dir}/tornado_app.py",
        socket: Some(""),
        ..SERVER
    },
    Server {
        name: "twisted",
        told_by_preset: true,
        preset: "twisted",
        version: "twist --version",
        command: "twist web {where} --class twisted_app.resource",
        port: "--listen tcp:{port}",
        socket: Some("--listen systemd:domain=INET:index=0"),
        ..SERVER
    },
    Server {
        name: "grpc-python",
        preset: "grpc",
        settings: "--retire-signal TERM",
        version: "pip show grpcio",
        command: "python {dir}/grpc_server.py",
        speaks: Speaks::Grpc,
        ..SERVER
    },
];
