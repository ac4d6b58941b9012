//! How a master hands over to the next one, without a moment in which a client notices.
//!
//! The next master (`ipcluster run --replace`) connects to the control socket like an operator and asks in
//! a line, `{"v":1,"command":"takeover","format":1}`. From then on the connection is theirs alone:
//!
//! ```text
//! next (receive.rs)                    running (give.rs)
//!  |  takeover, format 1                |
//!  |----------------------------------->|  stops deciding; or refuses
//!  |        offer: state, descriptors   |
//!  |<-----------------------------------|
//!  |  prepared                          |     until here the next one has changed nothing, and if it
//!  |----------------------------------->|     ends, or takes too long, the running one goes on
//!  |                             granted |
//!  |<-----------------------------------|
//!  |  taken                             |     from "granted" on the running one does nothing more,
//!  |----------------------------------->|     unless the connection ends without "taken"; and
//!  |                                    |     before "taken" the next one does nothing. One that
//!  |                                    |     stays silent then is killed: it may be stopped
//!  is the master                       ends
//! ```
//!
//! Whichever process is killed at whatever point, one of them is the master, and not both: if the running
//! one ends before it has granted, the next one takes what is left as if it had crashed.
//!
//! | file | |
//! |---|---|
//! | `protocol.rs` | what the two say to each other (pure) |
//! | `give.rs` | the running master's part |
//! | `receive.rs` | the next master's part, up to the moment when it is the master |
//! | `../startup/find_workers.rs` | workers that nobody hands over: what the kernel and `/proc` show of them |

pub(in crate::master) mod give;
pub(in crate::master) mod observer;
pub(in crate::master) mod protocol;
pub(in crate::master) mod receive;
