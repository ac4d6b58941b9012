//! Elements of sets and maps, in bulk.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::data::{
    GOTO, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, put_data,
    put_goto,
};
use super::expression::NFTA_LIST_ELEM;
use super::put_name;
use crate::netlink::Attributes;
use crate::netlink::attribute::{begin, end, nest, put_text, put_u32};
use crate::plan::{Port, Protocol, Seat};
use crate::ruleset::{ChainName, Elements, Name, SetName, low_v4, low_v6};

// `NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_*` (include/uapi/linux/netfilter/nf_tables.h).
pub(in crate::nft) const NFTA_SET_ELEM_LIST_TABLE: u16 = super::message::TABLE;
pub(in crate::nft) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(in crate::nft) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(in crate::nft) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(in crate::nft) const NFTA_SET_ELEM_DATA: u16 = 2;

/// The longest list of elements in one message: an attribute's length is 16 bits.
const LIST_LIMIT: usize = 60_000;

/// The set that elements go into: by its name, and by its number if the same transaction makes it.
#[derive(Debug, Clone, Copy)]
pub(in crate::nft) struct SetReference<'a> {
    pub(in crate::nft) table: &'a str,
    pub(in crate::nft) set: Name,
    pub(in crate::nft) id: Option<u32>,
}

/// Writes the bodies of the messages that add these elements, as many as it needs; `message` begins
/// one.
pub(in crate::nft) fn emit(
    buffer: &mut Vec<u8>,
    target: SetReference<'_>,
    elements: &Elements,
    message: impl FnMut(&mut Vec<u8>),
) {
    let mut lists = Lists { buffer, target, message, open: None };
    match elements {
        Elements::WorkerPorts(ports) => lists.add_ports(ports),
        Elements::Listeners4(all) => {
            for (address, protocol, port) in all {
                lists.add_key(&[&address.octets()[..], &service_key(*protocol, *port)].concat());
            }
        }
        Elements::Listeners6(all) => {
            for (address, protocol, port) in all {
                lists.add_key(&[&address.octets()[..], &service_key(*protocol, *port)].concat());
            }
        }
        Elements::Services(all) => {
            for (protocol, port) in all {
                lists.add_key(&service_key(*protocol, *port));
            }
        }
        Elements::Seats(seats) => {
            lists.add_seats(seats, |key| key.to_ne_bytes());
        }
        Elements::MaskedSeats4(seats) => lists.add_seats(seats, |key| low_v4(key).octets()),
        Elements::MaskedSeats6(seats) => lists.add_seats(seats, |key| low_v6(key).octets()),
        Elements::Ports(all) => {
            for (public, worker) in all {
                lists.add(|buffer| {
                    put_data(buffer, NFTA_SET_ELEM_KEY, &public.number().to_be_bytes());
                    put_data(buffer, NFTA_SET_ELEM_DATA, &worker.number().to_be_bytes());
                });
            }
        }
    }
    lists.close();
}

/// Writes the bodies of the messages about these ports of a set of them, as [`emit`] does.
pub(in crate::nft) fn emit_ports(
    buffer: &mut Vec<u8>,
    target: SetReference<'_>,
    ports: &[Port],
    message: impl FnMut(&mut Vec<u8>),
) {
    let mut lists = Lists { buffer, target, message, open: None };
    lists.add_ports(ports);
    lists.close();
}

/// Writes the bodies of the messages about these elements, as [`emit`] does: keys, and of a map the chain that
/// each goes to. Whoever deletes elements names their keys alone.
pub(in crate::nft) fn emit_keys<'a>(
    buffer: &mut Vec<u8>,
    target: SetReference<'_>,
    elements: impl IntoIterator<Item = (&'a [u8], Option<&'a str>)>,
    message: impl FnMut(&mut Vec<u8>),
) {
    let mut lists = Lists { buffer, target, message, open: None };
    for (key, chain) in elements {
        lists.add(|buffer| {
            put_data(buffer, NFTA_SET_ELEM_KEY, key);
            if let Some(chain) = chain {
                nest(buffer, NFTA_SET_ELEM_DATA, |buffer| put_goto(buffer, chain));
            }
        });
    }
    lists.close();
}

/// A protocol and a port as parts of a key of several: each is padded to 32 bits.
fn service_key(protocol: Protocol, port: Port) -> [u8; 8] {
    let [high, low] = port.number().to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// Lists of elements, each in a message of its own and below the limit.
struct Lists<'a, F> {
    buffer: &'a mut Vec<u8>,
    target: SetReference<'a>,
    message: F,
    /// Where the attribute of the list that is being written begins.
    open: Option<usize>,
}

impl<F: FnMut(&mut Vec<u8>)> Lists<'_, F> {
    fn add_seats<const LEN: usize>(&mut self, seats: &[Seat], key: impl Fn(u32) -> [u8; LEN]) {
        for (number, seat) in (0u32..).zip(seats) {
            self.add(|buffer| {
                put_data(buffer, NFTA_SET_ELEM_KEY, &key(number));
                let chain = Name::from(ChainName::Seat(*seat));
                nest(buffer, NFTA_SET_ELEM_DATA, |buffer| put_goto(buffer, chain.as_bytes()));
            });
        }
    }

    fn add_ports(&mut self, ports: &[Port]) {
        for port in ports {
            self.add_key(&port.number().to_be_bytes());
        }
    }

    fn add_key(&mut self, key: &[u8]) {
        self.add(|buffer| put_data(buffer, NFTA_SET_ELEM_KEY, key));
    }

    fn add(&mut self, contents: impl FnOnce(&mut Vec<u8>)) {
        if self.open.is_some_and(|start| self.buffer.len() - start > LIST_LIMIT) {
            self.close();
        }
        if self.open.is_none() {
            self.open_list();
        }
        nest(self.buffer, NFTA_LIST_ELEM, contents);
    }

    fn open_list(&mut self) {
        (self.message)(self.buffer);
        put_text(self.buffer, NFTA_SET_ELEM_LIST_TABLE, self.target.table);
        put_name(self.buffer, NFTA_SET_ELEM_LIST_SET, self.target.set);
        if let Some(id) = self.target.id {
            put_u32(self.buffer, NFTA_SET_ELEM_LIST_SET_ID, id);
        }
        self.open = Some(begin(self.buffer, NFTA_SET_ELEM_LIST_ELEMENTS));
    }

    fn close(&mut self) {
        if let Some(start) = self.open.take() {
            end(self.buffer, start);
        }
    }
}

/// One element as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Element {
    pub(in crate::nft) key: Vec<u8>,
    pub(in crate::nft) value: Option<Value>,
}

/// The value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) enum Value {
    Bytes(Vec<u8>),
    Goto(String),
}

/// Reads the elements of one message of a dump; `None` if some element is not of a form that ours have.
pub(in crate::nft) fn parse(attributes: Attributes<'_>) -> Option<Vec<Element>> {
    let Some(list) = attributes.nested(NFTA_SET_ELEM_LIST_ELEMENTS) else { return Some(vec![]) };
    list.into_iter().map(|(_, element)| parse_element(Attributes::new(element))).collect()
}

fn parse_element(element: Attributes<'_>) -> Option<Element> {
    let key = element.nested(NFTA_SET_ELEM_KEY)?.get(NFTA_DATA_VALUE)?.to_vec();
    let value = match element.nested(NFTA_SET_ELEM_DATA) {
        None => None,
        Some(data) => match data.get(NFTA_DATA_VALUE) {
            Some(bytes) => Some(Value::Bytes(bytes.to_vec())),
            None => Some(Value::Goto(parse_goto(data.nested(NFTA_DATA_VERDICT)?)?)),
        },
    };
    Some(Element { key, value })
}

fn parse_goto(verdict: Attributes<'_>) -> Option<String> {
    let is_goto = verdict.u32(NFTA_VERDICT_CODE)? == GOTO.cast_unsigned();
    is_goto.then(|| verdict.text(NFTA_VERDICT_CHAIN).map(str::to_owned))?
}

/// Elements of one of our sets, of which the kernel gives them in any order; `None` if they are not
/// what such a set holds.
pub(in crate::nft) fn collect(name: SetName, elements: &[Element]) -> Option<Elements> {
    use crate::ruleset::Family;
    match name {
        SetName::Listeners(Family::V4) => {
            Some(Elements::Listeners4(sorted(elements.iter().map(|element| {
                let (address, rest) = element.key.split_first_chunk::<4>()?;
                let (protocol, port) = parse_service(rest)?;
                Some((Ipv4Addr::from(*address), protocol, port))
            }))?))
        }
        SetName::Listeners(Family::V6) => {
            Some(Elements::Listeners6(sorted(elements.iter().map(|element| {
                let (address, rest) = element.key.split_first_chunk::<16>()?;
                let (protocol, port) = parse_service(rest)?;
                Some((Ipv6Addr::from(*address), protocol, port))
            }))?))
        }
        SetName::Wildcards(_) | SetName::Established => Some(Elements::Services(sorted(
            elements.iter().map(|element| parse_service(&element.key)),
        )?)),
        SetName::Guarded(_) => {
            let ports = elements.iter().map(|element| parse_port(&element.key));
            Some(Elements::WorkerPorts(sorted(ports)?))
        }
        SetName::Slots(_) | SetName::Survivors(_) => {
            seats_in_order(elements, |key| Some(u32::from_ne_bytes(key.try_into().ok()?)))
                .map(Elements::Seats)
        }
        SetName::MaskedSlots(Family::V4, _) => {
            seats_in_order(elements, |key| Some(u32::from_be_bytes(key.try_into().ok()?)))
                .map(Elements::MaskedSeats4)
        }
        SetName::MaskedSlots(Family::V6, _) => seats_in_order(elements, |key| {
            u32::try_from(u128::from_be_bytes(key.try_into().ok()?) >> 64).ok()
        })
        .map(Elements::MaskedSeats6),
        SetName::Ports(..) => collect_ports(elements).map(Elements::Ports),
    }
}

/// The ports of a redirect's map, in the order of the public ports.
fn collect_ports(elements: &[Element]) -> Option<Vec<(Port, Port)>> {
    let port = |bytes: &[u8]| Port::new(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    sorted(elements.iter().map(|element| match &element.value {
        Some(Value::Bytes(value)) => Some((port(&element.key)?, port(value)?)),
        _ => None,
    }))
}

fn parse_port(key: &[u8]) -> Option<Port> {
    Port::new(u16::from_be_bytes(key.try_into().ok()?))
}

fn parse_service(key: &[u8]) -> Option<(Protocol, Port)> {
    match key {
        [protocol, 0, 0, 0, high, low, 0, 0] => {
            Some((Protocol::from_number(*protocol)?, Port::new(u16::from_be_bytes([*high, *low]))?))
        }
        _ => None,
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let mut all = items.collect::<Option<Vec<T>>>()?;
    all.sort();
    Some(all)
}

/// The seats by their keys, which must be 0 to the number of elements less one.
fn seats_in_order(
    elements: &[Element],
    number_of: impl Fn(&[u8]) -> Option<u32>,
) -> Option<Vec<Seat>> {
    let mut seats = vec![None; elements.len()];
    for element in elements {
        let Some(Value::Goto(chain)) = &element.value else { return None };
        let ChainName::Seat(seat) = ChainName::parse(chain)? else { return None };
        *seats.get_mut(number_of(&element.key)? as usize)? = Some(seat);
    }
    seats.into_iter().collect()
}
