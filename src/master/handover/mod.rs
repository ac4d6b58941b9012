//! How a master hands over to the next one, without a moment in which a client notices.
//!
//! The next master (`ipcluster run --replace`) connects to the control socket like an operator and asks in
//! a line, `{"v":1,"command":"takeover","format":1}`. From then on the connection is theirs alone:
//!
//! ```text
//! next master (receive.rs)            running master (give.rs)
//!  |  takeover, format 1               |
//!  |---------------------------------->|  stops deciding; or refuses, and goes on
//!  |        offer: state, descriptors  |
//!  |<----------------------------------|
//!  |  prepared                         |
//!  |---------------------------------->|
//!  |                          granted  |
//!  |<----------------------------------|
//!  |  taken                            |
//!  |---------------------------------->|
//!  is the master                      ends
//! ```
//!
//! * Until the next master says that it is prepared it has changed nothing that anybody else could see. If
//!   it ends, or takes too long, the running master goes on.
//! * Once it has granted, the running master does nothing more, unless the connection ends before it hears
//!   that the other one has taken over: then it goes on.
//! * Before it says that it has taken over, the next master does nothing. If it stays silent after it was
//!   granted, it may be stopped, and would go on at any later time: it is killed.
//!
//! So whichever process is killed at whatever point, one of them is the master, and not both. If the
//! running master ends before it has granted, the next one takes what is left as after a crash.
//!
//! | file | |
//! |---|---|
//! | `protocol.rs` | the messages, and their form on the connection (pure) |
//! | `give.rs` | the running master's part |
//! | `receive.rs` | the next master's part, up to the moment when it is the master |
//! | `observer.rs` | for tests that end a master at a given step |
//!
//! What the state consists of is in `protocol/snapshot.rs`, how a supervisor goes on from it in
//! `supervisor/takeover/`. Workers that nobody hands over are found by `startup/find_workers.rs`.

pub(super) mod give;
pub(super) mod observer;
pub(super) mod protocol;
pub(super) mod receive;
