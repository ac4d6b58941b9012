//! A real resolver beside a cluster: it sends from random ports, which can be those of workers.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Unbound).with_both_engines();
    vec![case("a_resolver_asks_once_for_each_look_up", asks_once)]
}

const LOOK_UPS: u16 = 200;

/// Every port that it may send from is one of the range, of which workers have a third.
const CONFIGURATION: &str = "\
server:
  directory: \"/\"
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  interface: 127.0.0.1@5300
  do-not-query-localhost: no
  outgoing-port-avoid: 0-65535
  outgoing-port-permit: 20000-20095
  outgoing-range: 32
  module-config: \"iterator\"
  qname-minimisation: no
  do-ip6: no
  infra-host-ttl: 0
  local-zone: \"test.\" nodefault
remote-control:
  control-enable: no
stub-zone:
  name: \"test.\"
  stub-addr: 10.9.0.2@53
";

/// The name of a question without its end.
fn name_of(question: &[u8]) -> Option<String> {
    let length = usize::from(*question.get(12)?);
    String::from_utf8(question.get(13..13 + length)?.to_vec()).ok()
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut text = id.to_be_bytes().to_vec();
    text.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()]);
    text.extend(name.bytes());
    text.extend(*b"\x04test\x00\x00\x01\x00\x01");
    text
}

/// The question with an address, and nothing else.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = name_of(question)?;
    let mut text = question.get(..12 + 1 + name.len() + 6 + 4)?.to_vec();
    (text[2], text[3]) = (0x84, 0);
    text[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    text.extend(*b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04\xc0\x00\x02\x01");
    Some(text)
}

fn asks_once(lab: &Lab) {
    let cluster = Cluster::new(lab, 8).environment("GREETER_UDP", "yes");
    let cluster = cluster.argument("--worker-ports").argument("20000-20095");
    let cluster = ["10.9.0.1:81", "10.9.0.1:82", "10.9.0.1:5353/udp"]
        .into_iter()
        .fold(cluster, |cluster, listener| cluster.argument("--listen").argument(listener));
    let cluster = cluster.start(8);
    let held = cluster.status().live().iter().map(|worker| worker.ports.len()).sum::<usize>();
    assert_eq!(held, 32, "a third of the range");
    let asked: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let authority = lab.client().run_in(|| UdpSocket::bind("10.9.0.2:53")).unwrap().unwrap();
    authority.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (seen, ends) = (Arc::clone(&asked), Arc::clone(&is_over));
    let serves = thread::spawn(move || {
        let mut buffer = [0; 512];
        while !ends.load(Ordering::Relaxed) {
            let Ok((length, from)) = authority.recv_from(&mut buffer) else { continue };
            let Some(text) = answer(&buffer[..length]) else { continue };
            *seen.lock().unwrap().entry(name_of(&text).unwrap_or_default()).or_default() += 1;
            authority.send_to(&text, from).unwrap();
        }
    });
    let file = lab.directory().join("unbound.conf");
    std::fs::write(&file, CONFIGURATION).unwrap();
    let mut command = Command::new("unbound");
    command.arg("-d").arg("-c").arg(&file);
    let mut resolver = lab.start("unbound", command);
    let client = lab.server().run_in(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    client.connect("127.0.0.1:5300").unwrap();
    let look_up = |id: u16, name: &str| {
        let mut buffer = [0; 512];
        // NOERROR.
        client.send(&question(id, name)).is_ok()
            && client.recv(&mut buffer).is_ok()
            && buffer[3] & 0xf == 0
    };
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    wait_until("the resolver to serve", Duration::from_secs(20), || {
        assert!(resolver.is_running(), "{}", resolver.output());
        look_up(0, "begin")
    });
    asked.lock().unwrap().clear();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for number in 1..=LOOK_UPS {
        assert!(look_up(number, &format!("n{number}")), "{number}: {}", resolver.output());
    }
    is_over.store(true, Ordering::Relaxed);
    serves.join().unwrap();
    let mut asked = asked.lock().unwrap().clone();
    asked.remove("begin");
    let again: Vec<_> = asked.iter().filter(|(_, times)| **times != 1).collect();
    assert!(again.is_empty(), "asked for again: {again:?}");
    assert_eq!(asked.len(), usize::from(LOOK_UPS));
}
