//! The page that the master serves, in a real browser: what happens shows within a second, and nothing is
//! loaded from elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use netns_tests::{Case, Cluster, Lab, Need, signal, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_reload_and_a_kill_show_within_a_second", shows).needs(Need::Chromium),
        Case::new("a_client_address_is_explained_also_on_a_phone", explains).needs(Need::Chromium),
        Case::new("a_screen_reader_and_a_keyboard_get_at_all_of_it", accessible)
            .needs(Need::Chromium),
    ]
}

const ADDRESS: &str = "127.0.0.1:9180";

/// Chromium, driven over its debugging pipe: messages in JSON, each with a zero byte after it.
struct Browser {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
}

impl Browser {
    /// A browser in the server's network that shows the page.
    fn open(lab: &Lab) -> Self {
        // It reads descriptor 3 and writes descriptor 4. It is the only program in its network.
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --disable-background-networking --disable-component-update \
                      --user-data-dir=\"$1\" --remote-debugging-pipe about:blank \
                      3<&0 4>&1 </dev/null >/dev/null 2>/dev/null";
        let profile = lab.directory().join("chromium");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("sh").arg(&profile).env("HOME", lab.directory());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = lab.server().run_in(|| command.spawn()).unwrap();
        let mut child = spawned.expect("a shell");
        let (requests, replies) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let replies = BufReader::new(replies);
        let mut browser = Self { child, requests, replies, session: None, sent: 0 };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.call("Page.navigate", json!({"url": format!("http://{ADDRESS}/")}));
        browser
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut request = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.requests.write_all(&bytes).unwrap();
        loop {
            let mut reply = Vec::new();
            self.replies.read_until(0, &mut reply).unwrap();
            assert_eq!(reply.pop(), Some(0), "chromium has ended");
            let mut reply: Value = serde_json::from_slice(&reply).unwrap();
            if reply["id"] == self.sent {
                assert_eq!(reply["error"], Value::Null, "{method}");
                return reply["result"].take();
            }
        }
    }

    /// What an expression is on the page.
    fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let mut reply = self.call("Runtime.evaluate", parameters);
        assert_eq!(reply["exceptionDetails"], Value::Null, "{expression}");
        reply["result"]["value"].take()
    }

    fn wait_for(&mut self, expression: &str, expected: &Value) {
        wait_until(&format!("{expression} = {expected}"), Duration::from_secs(20), || {
            self.value(expression) == *expected
        });
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn watched(lab: &Lab) -> Cluster<'_> {
    Cluster::new(lab, 3).argument("--http-listen").argument(ADDRESS).start(3)
}

/// The process of the live worker in a seat, as the page shows it.
fn shown(seat: u16) -> String {
    let row = format!("#workers tr[data-seat=\"{seat}\"][data-state=live]");
    format!("Number(document.querySelector('{row}')?.dataset.pid ?? 0)")
}

/// From the time that an event says to when the page had it, in milliseconds.
fn late(event: &str) -> String {
    format!("Number(document.querySelector('#events [data-event={event}]')?.dataset.late ?? -1)")
}

const LIVE: &str = "document.querySelectorAll('#workers tr[data-state=live]').length";
const GENERATION: &str = "document.getElementById('generation').textContent";

fn shows(lab: &Lab) {
    let cluster = watched(lab);
    let mut browser = Browser::open(lab);
    browser.wait_for(LIVE, &json!(3));
    browser.wait_for(
        "document.querySelectorAll('#ring path.seat[data-state=live]').length",
        &json!(3),
    );
    browser.wait_for("document.getElementById('link').dataset.state", &json!("live"));

    cluster.reload();
    browser.wait_for(GENERATION, &json!("2"));
    browser.wait_for(LIVE, &json!(3));
    let swapped = browser.value(&late("swapped")).as_i64().unwrap();
    assert!((0..1000).contains(&swapped), "{swapped} ms after the swap");

    // On a busy machine the browser may get no processor for a second: then it is tried again.
    let mut took = Vec::new();
    for seat in 0..3 {
        let pid = cluster.status().pids()[&seat];
        browser.wait_for(&shown(seat), &json!(pid));
        let killed = Instant::now();
        signal(pid, Signal::SIGKILL);
        wait_until("the kill shows", Duration::from_secs(20), || {
            browser.value(&shown(seat)) != json!(pid)
        });
        took.push(killed.elapsed());
        if killed.elapsed() < Duration::from_secs(1) {
            break;
        }
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "{took:?}");
    browser.wait_for(LIVE, &json!(3));
    assert!(browser.value(&late("died")).as_i64().unwrap() >= 0);
    let elsewhere = "performance.getEntriesByType('resource')\
                     .filter((it) => new URL(it.name).origin !== location.origin).length";
    assert_eq!(browser.value(elsewhere), json!(0));
}

fn explains(lab: &Lab) {
    let cluster = watched(lab);
    let mut browser = Browser::open(lab);
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    browser.wait_for(LIVE, &json!(3));
    let explained = cluster.succeed("explain", &["10.9.0.77"]);
    let ask = |address: &str| {
        format!(
            "document.getElementById('address').value = '{address}'; \
             document.querySelector('#explain button').click(); 1"
        )
    };
    browser.value(&ask("10.9.0.77"));
    let seat = "document.querySelectorAll('#explained b')[1]?.textContent";
    wait_until("the page explains", Duration::from_secs(20), || {
        browser.value(seat).as_str().is_some_and(|seat| explained.contains(seat))
    });
    browser.value(&ask("web.example"));
    let wrong = "document.querySelector('#explained .wrong')?.textContent.includes('is no IP address') ?? false";
    browser.wait_for(wrong, &json!(true));
    // Nothing sticks out to the side, and everything that can be used has a name.
    assert_eq!(browser.value("document.documentElement.scrollWidth <= innerWidth"), json!(true));
    let unnamed = "[...document.querySelectorAll('button, input, meter')].filter((it) => !(it.textContent.trim() \
                   || it.getAttribute('aria-label') || it.labels?.length)).length";
    assert_eq!(browser.value(unnamed), json!(0));
}

/// What a screen reader is told: the roles and names of what the page shows.
fn told(browser: &mut Browser) -> Vec<(String, String)> {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().unwrap();
    let text = |node: &Value, what: &str| node[what]["value"].as_str().unwrap_or("").to_owned();
    let shown = nodes.iter().filter(|node| node["ignored"] == false);
    shown.map(|node| (text(node, "role"), text(node, "name"))).collect()
}

/// Presses a key, as somebody without a mouse does.
fn press(browser: &mut Browser, key: &str, code: u32, text: &str) {
    for kind in ["keyDown", "keyUp"] {
        let text = if kind == "keyDown" { text } else { "" };
        let event = json!({
            "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text
        });
        browser.call("Input.dispatchKeyEvent", event);
    }
}

fn accessible(lab: &Lab) {
    let cluster = watched(lab);
    let mut browser = Browser::open(lab);
    browser.call("Accessibility.enable", json!({}));
    browser.wait_for(LIVE, &json!(3));
    wait_until("the figures of the workers", Duration::from_secs(20), || {
        told(&mut browser).iter().any(|(role, name)| role == "cell" && name.contains("MiB"))
    });
    let all = told(&mut browser);
    let names = |role: &str| -> Vec<&str> {
        all.iter().filter(|it| it.0 == role).map(|it| it.1.as_str()).collect()
    };
    // Every part has a heading, and everything that is more than text a name.
    assert_eq!(
        names("heading")[1..],
        ["Whole cluster, last five minutes", "Slots", "Workers", "What happened"]
    );
    for role in
        ["textbox", "button", "image", "graphics-symbol", "table", "link", "meter", "region"]
    {
        assert!(
            names(role).iter().all(|name| !name.trim().is_empty()),
            "{role}: {:?}",
            names(role)
        );
    }
    assert_eq!(
        (names("textbox"), names("table")),
        (vec!["Where does a client go?"], vec!["Workers"])
    );
    assert_eq!(names("columnheader")[..2], ["Seat", "State"]);
    // What colours show is said in words: whose the slots are, and how workers are.
    let of_seats = names("graphics-symbol");
    let pids = cluster.status().pids();
    for (seat, pid) in &pids {
        let slots = of_seats.iter().find(|name| name.starts_with(&format!("seat {seat}: ")));
        assert!(slots.is_some_and(|name| name.ends_with(&format!("pid {pid}"))), "{of_seats:?}");
    }
    assert_eq!(names("cell").iter().filter(|name| name.contains("live")).count(), 3);

    // By the keyboard alone: the first thing leads past the head of the page, the box and its button follow.
    let focused = "document.activeElement.id || document.activeElement.textContent.trim()";
    let mut reached = Vec::new();
    while reached.len() < 20 && !reached.contains(&json!("Explain")) {
        press(&mut browser, "Tab", 9, "");
        reached.push(browser.value(focused));
    }
    assert_eq!(reached[0], "Skip to the workers", "{reached:?}");
    assert!(reached.contains(&json!("address")), "{reached:?}");
    browser.value("document.getElementById('address').focus(); 1");
    browser.call("Input.insertText", json!({"text": "10.9.0.77"}));
    press(&mut browser, "Enter", 13, "\r");
    let seat = "document.querySelectorAll('#explained b')[1]?.textContent ?? ''";
    let explained = cluster.succeed("explain", &["10.9.0.77"]);
    wait_until("the page explains", Duration::from_secs(20), || {
        browser
            .value(seat)
            .as_str()
            .is_some_and(|seat| !seat.is_empty() && explained.contains(seat))
    });
    // Each focus can be seen.
    let outline = "document.getElementById('address').focus(); \
                   getComputedStyle(document.activeElement).outlineStyle";
    assert_ne!(browser.value(outline), json!("none"));
}
