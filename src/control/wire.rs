//! How the identifiers of `plan` stand in JSON: numbers as numbers, the rest as their text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{SerializeMap, Serializer};

use crate::plan::{Generation, Port, Seat, Slot};

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "Seat")]
pub(super) struct SeatNumber(u16);

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "Slot")]
pub(super) struct SlotNumber(u32);

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "Generation")]
pub(super) struct GenerationNumber(u64);

/// A value that has a text: the name of a cluster.
pub(super) mod text {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A list of values that have a text: listeners.
pub(super) mod texts {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// Public port -> worker port, as an object: `{"80":20000}`.
pub(super) mod ports {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        ports: &BTreeMap<Port, Port>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(ports.len()))?;
        for (public, worker) in ports {
            object.serialize_entry(&public.number().to_string(), &worker.number())?;
        }
        object.end()
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Port, Port>, D::Error> {
        let port = |number| Port::new(number).ok_or_else(|| D::Error::custom("port 0"));
        let object = BTreeMap::<u16, u16>::deserialize(deserializer)?;
        object.into_iter().map(|(public, worker)| Ok((port(public)?, port(worker)?))).collect()
    }
}

/// Ports in their order, as a list of numbers.
pub(super) mod port_vec {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        ports: &[Port],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ports.iter().map(|port| port.number()))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Port>, D::Error> {
        let port = |number| Port::new(number).ok_or_else(|| D::Error::custom("port 0"));
        Vec::<u16>::deserialize(deserializer)?.into_iter().map(port).collect()
    }
}

/// Ports, as a list of numbers: `[53,443]`.
pub(super) mod port_list {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        ports: &BTreeSet<Port>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ports.iter().map(|port| port.number()))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<Port>, D::Error> {
        let port = |number| Port::new(number).ok_or_else(|| D::Error::custom("port 0"));
        Vec::<u16>::deserialize(deserializer)?.into_iter().map(port).collect()
    }
}

/// Seats, as a list of numbers, if they are given.
pub(super) mod seat_list {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        seats: &Option<Vec<Seat>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match seats {
            Some(seats) => serializer.collect_seq(seats.iter().map(|seat| seat.0)),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<Seat>>, D::Error> {
        let numbers = Option::<Vec<u16>>::deserialize(deserializer)?;
        Ok(numbers.map(|numbers| numbers.into_iter().map(Seat).collect()))
    }
}
