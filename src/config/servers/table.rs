//! What is known of each server: pure data, a row for each. How it was found out is `docs/servers.md`,
//! which `netns-tests/servers/run` measures anew.
//!
//! A row says what holds for every application that the server may run. A signal at retirement is there
//! only where the server itself then finishes every answer and ends; where that depends on the
//! application (node, Go), the row waits until connections end by themselves or have been silent for a
//! minute, and the hint says what an application can do.

use super::preset::{Arguments, Place, ServerPreset, Way};

/// Settings of a server that finishes at SIGTERM what it has begun. The signal goes to its main process,
/// which tells its children itself: some of them cut answers if they hear of it as well.
const FINISHES_AT_TERM: &[(&str, &str)] = &[("retire_signal", "TERM"), ("kill_mode", "mixed")];

/// Settings where no signal is known at which every application finishes what it has begun.
const UNTIL_SILENT: &[(&str, &str)] = &[("retire.idle", "1min")];

const ROW: ServerPreset = ServerPreset {
    name: "",
    about: "",
    programs: &[],
    modules: &[],
    settings: &[],
    always: None,
    port: Way::Itself,
    socket: Way::Itself,
    hints: &[],
};

/// Arguments directly after the program, unless one of these options is there.
const fn options(each: &'static [&'static str], unless: &'static [&'static str]) -> Way {
    Way::Arguments(Arguments { place: Place::First, each, repeats: false, unless })
}

/// The same options again for each further listener.
const fn repeated(each: &'static [&'static str], unless: &'static [&'static str]) -> Way {
    Way::Arguments(Arguments { place: Place::First, each, repeats: true, unless })
}

/// Arguments after a subcommand, or at the end where the command does not name it.
const fn after(
    word: &'static str,
    each: &'static [&'static str],
    unless: &'static [&'static str],
) -> Way {
    Way::Arguments(Arguments { place: Place::After(word), each, repeats: false, unless })
}

const HANDLER: &str = "a handler of SIGTERM that answers with `Connection: close` for some seconds and then closes the server, \
     with retire_signal = \"TERM\": keep-alive clients go over to the new generation, and none is cut";

/// All servers, in the order of their names.
pub(super) const PRESETS: &[ServerPreset] = &[
    ServerPreset {
        name: "aiohttp",
        about: "Python, asyncio: web.run_app",
        modules: &["aiohttp.web"],
        settings: FINISHES_AT_TERM,
        port: Way::ByHand("web.run_app(app, host=\"0.0.0.0\", port=int(os.environ[\"PORT\"]))"),
        socket: Way::ByHand("web.run_app(app, sock=socket.socket(fileno=3))"),
        ..ROW
    },
    ServerPreset {
        name: "apache",
        about: "Apache httpd",
        programs: &["apache2", "httpd"],
        settings: &[("stop_signal", "WINCH"), ("retire_signal", "WINCH"), ("kill_mode", "mixed")],
        port: Way::ByHand("Listen 0.0.0.0:${PORT}, and PidFile with ${PORT} in its name"),
        socket: Way::Never("its build must have mod_systemd, which Debian's has not"),
        hints: &[
            "run it in the foreground: apache2 -D FOREGROUND",
            "as root it needs `user`: workers cannot change their user",
        ],
        ..ROW
    },
    ServerPreset {
        name: "bun",
        about: "JavaScript",
        programs: &["bun"],
        settings: UNTIL_SILENT,
        port: Way::Itself,
        socket: Way::Never("neither Bun.serve nor node:http listens on a passed descriptor"),
        hints: &[HANDLER],
        ..ROW
    },
    ServerPreset {
        name: "caddy",
        about: "Caddy",
        programs: &["caddy"],
        settings: FINISHES_AT_TERM,
        port: Way::ByHand(":{$PORT} as the address of the site, and `admin off`"),
        socket: Way::Never("Caddy 2.6 takes none; later ones `bind fd/3`"),
        ..ROW
    },
    ServerPreset {
        name: "daphne",
        about: "Python, ASGI",
        programs: &["daphne"],
        modules: &["daphne"],
        settings: UNTIL_SILENT,
        port: options(
            &["-b", "{host}", "-p", "{port}"],
            &["-b", "--bind", "-p", "--port", "-e", "-u", "--fd"],
        ),
        socket: options(&["--fd", "{fd}"], &["-b", "--bind", "-p", "--port", "-e", "-u", "--fd"]),
        hints: &[
            "it cuts answers at every signal: it is told to end when its connections have ended, or were silent for a minute",
        ],
        ..ROW
    },
    ServerPreset {
        name: "deno",
        about: "JavaScript and TypeScript",
        programs: &["deno"],
        settings: UNTIL_SILENT,
        port: Way::ByHand("deno serve --host 0.0.0.0 --port {port} main.ts"),
        socket: Way::Never(
            "Deno.serve listens on no passed descriptor; node:http does: listen({ fd: 3 })",
        ),
        hints: &["deno serve finishes at SIGTERM what it has begun: retire_signal = \"TERM\""],
        ..ROW
    },
    ServerPreset {
        name: "go",
        about: "Go, net/http",
        settings: UNTIL_SILENT,
        port: Way::ByHand("http.ListenAndServe(\":\"+os.Getenv(\"PORT\"), handler)"),
        socket: Way::ByHand("net.FileListener(os.NewFile(3, \"\"))"),
        hints: &[HANDLER],
        ..ROW
    },
    ServerPreset {
        name: "granian",
        about: "Python, ASGI, RSGI and WSGI",
        programs: &["granian"],
        modules: &["granian"],
        settings: FINISHES_AT_TERM,
        port: options(&["--host", "{host}", "--port", "{port}"], &["--host", "--port", "--uds"]),
        socket: Way::Never("it has no setting for it"),
        ..ROW
    },
    ServerPreset {
        name: "grpc",
        about: "gRPC servers of every language",
        settings: UNTIL_SILENT,
        port: Way::ByHand("listen on 0.0.0.0 and PORT"),
        socket: Way::Never("most libraries take none; tonic does: serve_with_incoming"),
        hints: &[
            "no gRPC server sends GOAWAY at SIGTERM by itself: call its graceful stop in a handler, with retire_signal = \"TERM\"",
            "a maximal age of connections moves channels without a signal: grpc.max_connection_age_ms, with a grace",
        ],
        ..ROW
    },
    ServerPreset {
        name: "gunicorn",
        about: "Python, WSGI",
        programs: &["gunicorn"],
        modules: &["gunicorn"],
        settings: FINISHES_AT_TERM,
        port: repeated(&["-b", "{any}:{port}"], &["-b", "--bind"]),
        hints: &[
            "--graceful-timeout (30 s) ends what takes longer",
            "--control-socket with {worker} in its path, or --no-control-socket: else workers take it from one another",
        ],
        ..ROW
    },
    ServerPreset {
        name: "haproxy",
        about: "HAProxy",
        programs: &["haproxy"],
        settings: &[("stop_signal", "USR1"), ("retire_signal", "USR1"), ("kill_mode", "mixed")],
        port: Way::ByHand("bind \"0.0.0.0:${PORT}\""),
        socket: Way::ByHand("bind fd@3"),
        hints: &[
            "close-spread-time 2s: idle connections are closed one after the other",
            "`user` and `group` of its configuration need privilege: set those of ipcluster",
        ],
        ..ROW
    },
    ServerPreset {
        name: "hypercorn",
        about: "Python, ASGI",
        programs: &["hypercorn"],
        modules: &["hypercorn"],
        settings: FINISHES_AT_TERM,
        port: repeated(
            &["-b", "{any}:{port}"],
            &["-b", "--bind", "--insecure-bind", "--quic-bind"],
        ),
        socket: repeated(&["-b", "fd://{fd}"], &["-b", "--bind", "--insecure-bind", "--quic-bind"]),
        hints: &[
            "with -w 2 and more it cuts answers at SIGTERM: leave the number of processes to ipcluster",
        ],
        ..ROW
    },
    ServerPreset {
        name: "lighttpd",
        about: "lighttpd",
        programs: &["lighttpd"],
        settings: &[("stop_signal", "INT"), ("retire_signal", "INT"), ("kill_mode", "mixed")],
        port: Way::ByHand("server.port = env.PORT"),
        socket: Way::ByHand("server.systemd-socket-activation = \"enable\""),
        hints: &[
            "run it in the foreground: lighttpd -D",
            "server.graceful-shutdown-timeout (8 s) ends what takes longer",
        ],
        ..ROW
    },
    ServerPreset {
        name: "nginx",
        about: "nginx",
        programs: &["nginx"],
        settings: &[("stop_signal", "QUIT"), ("retire_signal", "QUIT"), ("kill_mode", "mixed")],
        port: Way::ByHand(
            "config_template with `listen 0.0.0.0:{port};` and `pid` with {port} in its name: nginx -c {config}",
        ),
        socket: Way::Variable { name: "NGINX", each: "{fd};", between: "" },
        hints: &[
            "run it in the foreground: daemon off",
            "worker_processes 1, or accept_mutex on, with a passed socket: it is blocking, so that of two processes that wake up for a connection one waits in accept(2)",
            "absolute_redirect off: else it sends clients to the worker port",
            "with a passed socket too `listen` names its address: 0.0.0.0:{port}, or [::]:{port} with a listener for IPv6",
            "`user` needs privilege: set that of ipcluster",
        ],
        ..ROW
    },
    ServerPreset {
        name: "node",
        about: "JavaScript",
        programs: &["node", "nodejs"],
        settings: UNTIL_SILENT,
        port: Way::ByHand("server.listen(process.env.PORT)"),
        socket: Way::ByHand("server.listen({ fd: 3 })"),
        hints: &[HANDLER, "without one: server.maxRequestsPerSocket moves keep-alive clients too"],
        ..ROW
    },
    ServerPreset {
        name: "php",
        about: "PHP's own server: php -S",
        settings: &[("stop_signal", "INT"), ("retire.idle", "5s")],
        port: Way::ByHand("php -S 0.0.0.0:{port}"),
        socket: Way::Never("it has no setting for it"),
        hints: &["it closes each connection after its answer, so that a retired one soon has none"],
        ..ROW
    },
    ServerPreset {
        name: "php-fpm",
        about: "PHP, FastCGI",
        programs: &["php-fpm"],
        settings: &[("stop_signal", "QUIT"), ("kill_mode", "mixed"), ("retire.idle", "5s")],
        port: Way::ByHand("listen = 0.0.0.0:${PORT}"),
        socket: Way::Variable { name: "FPM_SOCKETS", each: "{any}:{port}={fd}", between: "," },
        hints: &[
            "run it in the foreground: php-fpm --nodaemonize",
            "process_control_timeout = 10s: without it SIGQUIT cuts answers",
            "as root it needs `user`: workers cannot change their user",
            "with a passed socket too: listen = 0.0.0.0:${PORT}",
        ],
        ..ROW
    },
    ServerPreset {
        name: "puma",
        about: "Ruby, Rack",
        programs: &["puma"],
        settings: FINISHES_AT_TERM,
        port: repeated(
            &["-b", "tcp://{any}:{port}"],
            &["-b", "--bind", "-p", "--port", "-C", "--config"],
        ),
        socket: repeated(
            &["-b", "tcp://{any}:{port}"],
            &["-b", "--bind", "-p", "--port", "-C", "--config", "--bind-to-activated-sockets"],
        ),
        hints: &[
            "a thread waits up to 0.2 s for the next request of a keep-alive client: as many threads as such clients",
        ],
        ..ROW
    },
    ServerPreset {
        name: "tornado",
        about: "Python, asyncio",
        settings: UNTIL_SILENT,
        port: Way::ByHand("server.listen(int(os.environ[\"PORT\"]), \"0.0.0.0\")"),
        socket: Way::ByHand("server.add_socket(socket.socket(fileno=3))"),
        hints: &[HANDLER],
        ..ROW
    },
    ServerPreset {
        name: "twisted",
        about: "Python: twist, twistd",
        programs: &["twist", "twistd"],
        settings: UNTIL_SILENT,
        port: after("web", &["--listen", "tcp:{port}"], &["--listen", "--port", "-p", "--http"]),
        socket: after(
            "web",
            &["--listen", "systemd:domain={family}:index={index}"],
            &["--listen", "--port", "-p", "--http"],
        ),
        hints: &[
            "it cuts answers at every signal: it is told to end when its connections have ended, or were silent for a minute",
        ],
        ..ROW
    },
    ServerPreset {
        name: "unicorn",
        about: "Ruby, Rack",
        programs: &["unicorn"],
        settings: &[("stop_signal", "QUIT"), ("retire_signal", "QUIT"), ("kill_mode", "mixed")],
        port: repeated(&["-l", "{any}:{port}"], &["-l", "--listen", "-p", "--port"]),
        socket: repeated(&["-l", "{any}:{port}"], &["-l", "--listen", "-p", "--port"]),
        ..ROW
    },
    ServerPreset {
        name: "uvicorn",
        about: "Python, ASGI",
        programs: &["uvicorn"],
        modules: &["uvicorn"],
        settings: FINISHES_AT_TERM,
        port: options(
            &["--host", "0.0.0.0", "--port", "{port}"],
            &["--host", "--port", "--uds", "--fd"],
        ),
        socket: options(&["--fd", "{fd}"], &["--host", "--port", "--uds", "--fd"]),
        hints: &["`--host ::` takes no IPv4: with listeners of both, socket_activation = true"],
        ..ROW
    },
    ServerPreset {
        name: "uwsgi",
        about: "uWSGI",
        programs: &["uwsgi"],
        settings: FINISHES_AT_TERM,
        always: Some(Arguments {
            place: Place::First,
            each: &["--master", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all"],
            repeats: false,
            unless: &["--hook-master-start", "--die-on-term"],
        }),
        port: repeated(&["--http-socket", "{any}:{port}"], SOCKETS_OF_UWSGI),
        socket: repeated(&["--http-socket", "fd://{fd}"], SOCKETS_OF_UWSGI),
        hints: &[
            "add-header = Connection: close: it closes after each answer, and does not say so",
            "at SIGTERM its master process reloads, at once: the preset has it finish and end instead",
        ],
        ..ROW
    },
    ServerPreset {
        name: "waitress",
        about: "Python, WSGI",
        programs: &["waitress-serve"],
        modules: &["waitress"],
        settings: &[("stop_signal", "INT"), ("retire.idle", "5s")],
        port: repeated(
            &["--listen={any}:{port}"],
            &["--listen", "--host", "--port", "--unix-socket"],
        ),
        socket: Way::ByHand("waitress.serve(app, sockets=[socket.socket(fileno=3)])"),
        hints: &["`--listen=[::]:...` takes no IPv4: with listeners of both, --listen=*:{port}"],
        ..ROW
    },
];

const SOCKETS_OF_UWSGI: &[&str] = &[
    "--http-socket",
    "--http11-socket",
    "--http",
    "--socket",
    "-s",
    "--ini",
    "--emperor",
    "--yaml",
    "--xml",
];
