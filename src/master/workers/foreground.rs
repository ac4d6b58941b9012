//! How programs are kept in the foreground that go into the background. Pure.

/// Programs by the names of their processes, and what keeps each in the foreground.
const WAYS: &[(&[&str], &str)] = &[
    (&["nginx"], "nginx -g 'daemon off;'"),
    (&["gunicorn"], "gunicorn without --daemon (-D)"),
    (&["apache2", "httpd"], "apache2 -DFOREGROUND"),
    (&["php-fpm"], "php-fpm --nodaemonize (-F)"),
    (&["haproxy"], "haproxy without -D and `daemon`"),
    (&["lighttpd"], "lighttpd -D"),
    (&["uwsgi"], "uwsgi without --daemonize"),
    (&["puma", "unicorn", "ruby"], "puma or unicorn without -d, -D, --daemon"),
    (&["caddy"], "caddy run, not caddy start"),
    (&["redis-server"], "redis-server --daemonize no"),
    (&["memcached"], "memcached without -d"),
    (&["node", "PM2"], "node server.js, not pm2 start or forever start"),
];

/// What to do about a worker that has left processes with these names, each with its pid.
pub(super) fn advice(left: &[(String, u32)]) -> String {
    const SHOWN: usize = 4;
    let mut shown: Vec<String> =
        left.iter().take(SHOWN).map(|(name, pid)| format!("{name} ({pid})")).collect();
    if left.len() > SHOWN {
        shown.push(format!("{} more", left.len() - SHOWN));
    }
    let is_of = |name: &str, known: &str| name == known || name.starts_with(known);
    let way = WAYS.iter().find(|(names, _)| {
        left.iter().any(|(name, _)| names.iter().any(|known| is_of(name, known)))
    });
    let way = way.map_or("with the option of the program for that", |(_, way)| way);
    format!("it has left {}: run it in the foreground: {way}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(names: &[&str]) -> Vec<(String, u32)> {
        names.iter().zip(100..).map(|(name, pid)| ((*name).to_owned(), pid)).collect()
    }

    #[test]
    fn the_way_of_the_program_is_named() {
        let expected = "it has left nginx (100), nginx (101): run it in the foreground: nginx -g 'daemon off;'";
        assert_eq!(advice(&left(&["nginx", "nginx"])), expected);
        assert!(advice(&left(&["php-fpm7.4"])).ends_with("php-fpm --nodaemonize (-F)"));
        let many = advice(&left(&["a", "b", "c", "d", "e", "f"]));
        let expected = "it has left a (100), b (101), c (102), d (103), 2 more: run it in the \
                        foreground: with the option of the program for that";
        assert_eq!(many, expected);
    }
}
