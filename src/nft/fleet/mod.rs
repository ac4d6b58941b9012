//! The rules of one host of a fleet in the kernel, over netlink.
//!
//! # How it works
//!
//! Up to three tables, of the families `netdev`, `ip` and `ip6`, change in one transaction (one batch may be about
//! tables of any family). What is to be is compared with what is there, object by object, and only what differs is
//! sent: when nothing but owners have moved, that is the elements of those slots. Maps change while they are in use:
//! a packet looks a slot up once, and finds its owner before the transaction or the one behind it, never none.
//!
//! The cluster's own table is changed in transactions of its own. No order between the two loses anything: what the
//! rules of a fleet pass on does not come to the rules of this host, and what they leave alone meets the same rules
//! as if there were no fleet.
//!
//! As the table of a cluster these belong to their socket where the kernel has that, outlive it, and the next
//! master takes them; until then they are in force as they were.

mod bytecode;
mod contents;
mod error;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use error::FleetRulesError;

use contents::{Tables, changes, wanted};
use wire::Table;

use crate::netlink::{Acknowledgement, ERROR, Errno, Messages, NetlinkError, NlFamily, Socket};
use crate::nft::firewall::Applied;
use crate::nft::wire::batch::{Batch, Member};
use crate::nft::wire::dump;
use crate::nft::wire::table::TableOwner;
use crate::ruleset::{FleetRuleset, FleetTableKind, FleetTableName};

/// How often something is tried that depends on what was read just before.
const ATTEMPTS: u32 = 5;

/// The rules of one host of a fleet in the kernel.
pub(crate) struct FleetFirewall {
    socket: Socket,
    table: FleetTableName,
    /// Whether the tables are to belong to the socket.
    is_owner: bool,
    /// What the kernel holds, as far as we know.
    in_force: Option<Tables>,
}

/// What the kernel answered.
enum Outcome {
    Committed,
    Refused { operation: Option<usize>, errno: Errno, text: Option<String> },
}

impl FleetFirewall {
    /// Opens a socket for the tables of a fleet, which are to belong to it if `is_owner`. Changes nothing.
    pub(crate) fn open(table: FleetTableName, is_owner: bool) -> Result<Self, FleetRulesError> {
        let socket = Socket::open(NlFamily::Netfilter)
            .map_err(|source| netlink_error(&table, "open a socket for them", source))?;
        Ok(Self { socket, table, is_owner, in_force: None })
    }

    /// The name of the tables.
    pub(crate) fn table(&self) -> &FleetTableName {
        &self.table
    }

    /// The netlink port of the socket, by which its own commits are told from those of others.
    pub(crate) fn port(&self) -> Result<u32, FleetRulesError> {
        self.socket.port().map_err(|source| self.failed("name the socket for them", source))
    }

    /// Puts rules in force, in one transaction that changes only what differs. `device` is the index of their
    /// device. What an earlier master has left is taken over.
    ///
    /// # Errors
    /// In every case what was in force still is.
    pub(crate) fn apply(
        &mut self,
        rules: &FleetRuleset,
        device: u32,
    ) -> Result<Applied, FleetRulesError> {
        let wanted = wanted(rules, device);
        if let Some(found) = &self.in_force {
            let changes = changes(found, &wanted);
            if let Outcome::Committed = self.transact(&changes, None)? {
                self.in_force = Some(wanted);
                return Ok(applied(&changes));
            }
        }
        self.restore(wanted)
    }

    /// Nothing is known any more of what the kernel holds: the next change begins with reading it.
    pub(crate) fn forget(&mut self) {
        self.in_force = None;
    }

    /// Removes the tables, as far as they are ours.
    pub(crate) fn remove(&mut self) -> Result<(), FleetRulesError> {
        self.restore(Tables::new()).map(drop)
    }

    /// Compares what the kernel holds with what was put there last.
    ///
    /// # Errors
    /// [`FleetRulesError::Differs`] with the first object that does, and those of reading.
    pub(crate) fn verify(&mut self) -> Result<(), FleetRulesError> {
        let Some(expected) = self.in_force.clone() else { return Ok(()) };
        let found = self.read_at_once()?;
        match changes(&found, &expected).first() {
            None => Ok(()),
            Some((kind, change)) => Err(FleetRulesError::Differs {
                family: kind.family(),
                table: self.table.to_string(),
                object: change.object(),
            }),
        }
    }

    /// What the tables hold, all of one generation.
    fn read_at_once(&mut self) -> Result<Tables, FleetRulesError> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let found = self.read();
            if self.generation()? == before {
                return found.map(|(tables, _)| tables);
            }
        }
        Err(FleetRulesError::Overtaken { table: self.table.to_string(), attempts: ATTEMPTS })
    }

    fn generation(&mut self) -> Result<u32, FleetRulesError> {
        let id = dump::settled_generation_id(&mut self.socket);
        id.map_err(|source| self.failed("read them", source))
    }

    /// Makes the tables hold this, whatever they hold, if they are ours.
    fn restore(&mut self, wanted: Tables) -> Result<Applied, FleetRulesError> {
        self.in_force = None;
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let (found, orphans) = self.read()?;
            if !orphans.is_empty() {
                self.adopt(&orphans)?;
                continue;
            }
            let changes = changes(&found, &wanted);
            match self.transact(&changes, Some(generation))? {
                Outcome::Committed => {
                    self.in_force = Some(wanted);
                    return Ok(applied(&changes));
                }
                Outcome::Refused { errno: Errno::ERESTART, .. } => {}
                Outcome::Refused { operation, errno, text } => {
                    let change = operation.and_then(|at| changes.get(at));
                    let object = change.map_or_else(
                        || "the whole".to_owned(),
                        |(kind, change)| format!("{} (family {})", change.object(), kind.family()),
                    );
                    let table = self.table.to_string();
                    return Err(FleetRulesError::Refused { table, object, errno, text });
                }
            }
        }
        Err(FleetRulesError::Overtaken { table: self.table.to_string(), attempts: ATTEMPTS })
    }

    /// What the tables hold, and which of them have lost their owner and are to be taken. A table that cannot
    /// become ours as it is counts as one that holds nothing of ours, so that it is made anew.
    fn read(&mut self) -> Result<(Tables, Vec<FleetTableKind>), FleetRulesError> {
        let own = self.port()?;
        let (mut tables, mut orphans) = (Tables::new(), vec![]);
        for kind in FleetTableKind::ALL {
            let found = wire::find(&mut self.socket, kind, &self.table)
                .map_err(|source| self.failed("read them", source))?;
            let Some(Table { owner, schema, is_other }) = found else { continue };
            let (family, table) = (kind.family(), self.table.to_string());
            match schema {
                None => return Err(FleetRulesError::ForeignTable { family, table }),
                Some(found) if found > FleetTableName::SCHEMA => {
                    return Err(FleetRulesError::Schema { family, table, found });
                }
                Some(_) => {}
            }
            match owner {
                TableOwner::Socket(owner) if owner != own => {
                    return Err(FleetRulesError::OwnedByOther { family, table, owner });
                }
                TableOwner::Orphaned if self.is_owner && !is_other => orphans.push(kind),
                _ => {}
            }
            let is_whole = schema == Some(FleetTableName::SCHEMA)
                && !is_other
                && (owner == TableOwner::None) != self.is_owner;
            let contents = match is_whole {
                true => wire::read(&mut self.socket, kind, &self.table)
                    .map_err(|source| self.failed("read them", source))?,
                false => contents::Contents::unknown(),
            };
            tables.insert(kind, contents);
        }
        Ok((tables, orphans))
    }

    /// Becomes the owner of tables whose owner has ended. The kernel adds no base chain to a table that changes its
    /// owner in the same transaction (`nf_tables_addchain`: EINVAL), so this is one of its own.
    fn adopt(&mut self, orphans: &[FleetTableKind]) -> Result<(), FleetRulesError> {
        let member = |kind: &FleetTableKind| (0, wire::family(*kind), wire::adopt(&self.table));
        let members: Vec<(usize, u8, Member)> = orphans.iter().map(member).collect();
        match self.send(&members, None)? {
            Outcome::Committed => Ok(()),
            Outcome::Refused { errno, text, .. } => {
                let (table, object) = (self.table.to_string(), "their owner".to_owned());
                Err(FleetRulesError::Refused { table, object, errno, text })
            }
        }
    }

    fn transact(
        &mut self,
        changes: &[(FleetTableKind, contents::Change)],
        generation: Option<u32>,
    ) -> Result<Outcome, FleetRulesError> {
        if changes.is_empty() {
            return Ok(Outcome::Committed);
        }
        let mut members = vec![];
        for (number, (at, (kind, change))) in (1..).zip(changes.iter().enumerate()) {
            let messages = wire::messages(&self.table, change, number, self.is_owner);
            members.extend(messages.into_iter().map(|it| (at, wire::family(*kind), it)));
        }
        self.send(&members, generation)
    }

    fn send(
        &mut self,
        members: &[(usize, u8, Member)],
        generation: Option<u32>,
    ) -> Result<Outcome, FleetRulesError> {
        let mut batch = Batch::of_families(members, generation);
        match exchange(&mut self.socket, &mut batch) {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                // Nothing is known of what became of it.
                self.in_force = None;
                self.socket.discard_replies();
                Err(self.failed("change them", error))
            }
        }
    }

    fn failed(&self, intent: &'static str, source: NetlinkError) -> FleetRulesError {
        netlink_error(&self.table, intent, source)
    }
}

/// Has a batch carried out, and reads the replies: an error of any member means that nothing was applied, the
/// acknowledgement of the end that all was.
fn exchange(socket: &mut Socket, batch: &mut Batch) -> Result<Outcome, NetlinkError> {
    let count = u32::try_from(batch.messages()).unwrap_or(u32::MAX);
    batch.number_from(socket.take_sequences(count));
    socket.reserve_send(batch.datagram().len())?;
    socket.reserve_receive(batch.messages())?;
    socket.send(batch.datagram())?;
    let mut refused = None;
    while let Some(datagram) = socket.receive()? {
        for message in Messages::new(datagram) {
            let message = message?;
            let Some(place) = batch.message_at(message.sequence) else { continue };
            if message.kind != ERROR {
                continue;
            }
            let Acknowledgement { error, text, .. } = Acknowledgement::parse(&message)?;
            match error {
                Some(errno) => {
                    let operation = batch.operation_of(place);
                    refused.get_or_insert(Outcome::Refused { operation, errno, text });
                }
                None if place == batch.end() && refused.is_none() => {
                    return Ok(Outcome::Committed);
                }
                None => {}
            }
        }
    }
    refused.ok_or(NetlinkError::RepliesLost)
}

fn applied(changes: &[(FleetTableKind, contents::Change)]) -> Applied {
    let elements = |change: &contents::Change| match change {
        contents::Change::AddElements(_, all) => all.len(),
        contents::Change::DeleteElements(_, all) => all.len(),
        _ => 1,
    };
    let operations = changes.iter().map(|(_, change)| elements(change)).sum();
    Applied { operations, bytes: 0 }
}

fn netlink_error(
    table: &FleetTableName,
    intent: &'static str,
    source: NetlinkError,
) -> FleetRulesError {
    match source.errno() {
        Some(Errno::EPERM | Errno::EACCES) => FleetRulesError::Privilege,
        _ => FleetRulesError::Netlink { table: table.to_string(), intent, source },
    }
}
