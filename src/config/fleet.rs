//! The table `fleet`: this host as a member of a fleet of hosts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Values;
use super::value::{Fault, Form, Optional, Raw, Text, Value, quote, texts};
use super::{Config, ConfigError};
use crate::plan::fleet::{DeviceName, FleetError, Member, MemberName};
use crate::plan::{ClusterName, Listeners, Partition};

/// Where the list of members comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetMembership {
    /// A file that somebody else writes, as `ipcluster fleet plan` prints it. It is read again whenever it changes.
    File(PathBuf),
    /// etcd, where every member keeps its own key under a lease.
    Etcd,
}

/// This host as a member of a fleet: the table `fleet`, without contradictions.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "most of it is for etcd"))]
pub(crate) struct FleetConfig {
    pub(crate) name: ClusterName,
    /// `None`: the name of the host.
    pub(crate) member: Option<MemberName>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) device: DeviceName,
    pub(crate) weight: u16,
    pub(crate) membership: FleetMembership,
    pub(crate) slots: u32,
    pub(crate) seed: u32,
    pub(crate) kept: usize,
    pub(crate) lease: Duration,
    pub(crate) etcd: EtcdConfig,
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "nobody reaches it"))]
pub(crate) struct EtcdConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
}

impl Config {
    /// This host as a member of a fleet; `None` if it is in none.
    pub(crate) fn fleet(&self) -> Option<FleetConfig> {
        let Values { fleet_name, fleet_device, fleet_membership, .. } = &self.values;
        let (name, device) = (fleet_name.value.clone()?, fleet_device.value.clone()?);
        let values = &self.values;
        Some(FleetConfig {
            name,
            member: values.fleet_member.value.clone(),
            addresses: values.fleet_addresses.value.clone(),
            device,
            weight: values.fleet_weight.value,
            membership: fleet_membership.value.clone()?,
            slots: values.fleet_slots.value,
            seed: values.fleet_seed.value,
            kept: usize::from(values.fleet_kept.value),
            lease: values.fleet_lease.value,
            etcd: EtcdConfig {
                endpoints: values.fleet_etcd.value.clone(),
                ca: values.fleet_etcd_ca.value.clone(),
                cert: values.fleet_etcd_cert.value.clone(),
                key: values.fleet_etcd_key.value.clone(),
                user: values.fleet_etcd_user.value.clone(),
                password_file: values.fleet_etcd_password_file.value.clone(),
            },
        })
    }
}

/// Whether the table is whole, and fits the listeners.
pub(super) fn check(values: &Values, listeners: &Listeners) -> Result<(), ConfigError> {
    let Values { fleet_name, fleet_device, fleet_membership, fleet_seed, fleet_addresses, .. } =
        values;
    if fleet_name.value.is_none() {
        let alone = "it is for a member of a fleet: give fleet.name, or remove it";
        if fleet_membership.value.is_some() {
            return Err(fleet_membership.refused(alone));
        }
        if fleet_device.value.is_some() {
            return Err(fleet_device.refused(alone));
        }
        return Ok(());
    }
    if fleet_device.value.is_none() {
        return Err(fleet_name.refused(
            "a member needs fleet.device: the network device on which clients come in and the other members are",
        ));
    }
    match &fleet_membership.value {
        None => {
            return Err(fleet_name.refused(
                "a member needs fleet.membership: \"etcd\", or \"file:PATH\", the list of all members",
            ));
        }
        Some(FleetMembership::Etcd) => check_etcd(values)?,
        Some(FleetMembership::File(_)) => {}
    }
    if let Some(listener) = listeners.iter().find(|listener| listener.is_wildcard()) {
        return Err(values.listen.refused(format!(
            "{listener}: a fleet serves addresses that all its members have, not all those of each: expected a \
             named address"
        )));
    }
    let partition = Partition::hash_seeded(values.fleet_slots.value, fleet_seed.value);
    partition.map_err(|error| values.fleet_slots.unplannable(error))?;
    if fleet_seed.value == Partition::DEFAULT_SEED {
        let seed = FleetError::Seed { seed: fleet_seed.value };
        return Err(fleet_seed.refused(seed.to_string()));
    }
    if !fleet_addresses.value.is_empty() {
        let name: MemberName = "member"
            .parse()
            .map_err(|error: FleetError| fleet_addresses.refused(error.to_string()))?;
        Member::new(name, fleet_addresses.value.iter().copied())
            .map_err(|error| fleet_addresses.refused(error.to_string()))?;
    }
    Ok(())
}

/// Whether all is there that a member needs to be found in etcd, and to be let in.
fn check_etcd(values: &Values) -> Result<(), ConfigError> {
    let Values { fleet_membership, fleet_addresses, fleet_etcd, .. } = values;
    let Values { fleet_etcd_ca, fleet_etcd_cert, fleet_etcd_key, .. } = values;
    let Values { fleet_etcd_user, fleet_etcd_password_file, .. } = values;
    if !cfg!(feature = "etcd") {
        return Err(fleet_membership.refused(
            "etcd: this program was built without: build it with `--features etcd`, or give file:PATH",
        ));
    }
    if fleet_etcd.value.is_empty() {
        return Err(
            fleet_membership.refused("etcd: give fleet.etcd: where its servers are reached")
        );
    }
    for (nth, endpoint) in fleet_etcd.value.iter().enumerate() {
        let item = fleet_etcd.item(nth);
        let (is_tls, rest) = match endpoint.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => (false, ""),
        };
        if rest.is_empty() {
            return Err(item.refused(format!(
                "{}: expected the address of an etcd server, such as https://etcd-1.example:2379",
                quote(endpoint)
            )));
        }
        if is_tls && !cfg!(feature = "tls") {
            return Err(item.refused(format!(
                "{endpoint}: this program was built without TLS: build it with `--features tls`"
            )));
        }
        if is_tls && fleet_etcd_ca.value.is_none() {
            return Err(item.refused(format!(
                "{endpoint}: give fleet.etcd_ca: the certificate of whoever has signed the server's"
            )));
        }
    }
    if fleet_addresses.value.is_empty() {
        return Err(fleet_membership.refused(
            "etcd: give fleet.addresses: at which the other members reach this host on fleet.device",
        ));
    }
    match (&fleet_etcd_cert.value, &fleet_etcd_key.value) {
        (Some(_), None) => return Err(fleet_etcd_cert.refused("give fleet.etcd_key as well")),
        (None, Some(_)) => return Err(fleet_etcd_key.refused("give fleet.etcd_cert as well")),
        _ => {}
    }
    match (&fleet_etcd_user.value, &fleet_etcd_password_file.value) {
        (Some(_), None) => Err(fleet_etcd_user.refused("give fleet.etcd_password_file as well")),
        (None, Some(_)) => Err(fleet_etcd_password_file.refused("give fleet.etcd_user as well")),
        _ => Ok(()),
    }
}

impl Text for FleetMembership {
    const EXPECTED: &'static str = "\"file:PATH\" or \"etcd\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        match text.strip_prefix("file:") {
            Some(path) if path.starts_with('/') => Ok(Self::File(path.into())),
            None if text == "etcd" => Ok(Self::Etcd),
            _ => Err(Fault::new(format!(
                "{}: expected etcd, or file: and an absolute path, such as file:/etc/ipcluster/fleet.json",
                quote(&text)
            ))),
        }
    }
}

impl Optional for FleetMembership {
    const OFF: &'static str = "";
}

impl Text for MemberName {
    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|error: FleetError| Fault::new(error.to_string()))
    }
}

impl Optional for MemberName {
    const OFF: &'static str = "";
}

impl Text for DeviceName {
    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|error: FleetError| Fault::new(error.to_string()))
    }
}

impl Optional for DeviceName {
    const OFF: &'static str = "";
}

impl Optional for ClusterName {
    const OFF: &'static str = "";
}

impl Value for Vec<IpAddr> {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        let address = |(item, text): (usize, String)| {
            let expected = "expected an IPv4 or IPv6 address";
            text.parse().map_err(|_| Fault::new(format!("{}: {expected}", quote(&text))).at(item))
        };
        texts(raw)?.into_iter().enumerate().map(address).collect()
    }
}

impl Value for Vec<String> {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        texts(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfigBuilder;
    use super::super::testing::least;
    use super::*;

    const MEMBER: &[(&str, &str)] = &[("fleet.name", "web"), ("fleet.device", "eth0")];

    fn fault(builder: ConfigBuilder) -> String {
        builder.build_for(1).unwrap_err().to_string()
    }

    fn member() -> ConfigBuilder {
        least().flag("listen", "192.0.2.1:80").flags(MEMBER)
    }

    #[test]
    fn a_host_is_a_member_when_all_of_it_is_there() {
        let file = member().flag("fleet.membership", "file:/etc/fleet.json");
        let fleet = file.build_for(1).unwrap().fleet().unwrap();
        assert_eq!((fleet.name.as_str(), fleet.device.as_str()), ("web", "eth0"));
        assert_eq!(fleet.membership, FleetMembership::File("/etc/fleet.json".into()));
        assert!(least().build_for(1).unwrap().fleet().is_none());
        for (flags, expected) in [
            (&[("fleet.name", "web")][..], "a member needs fleet.device"),
            (MEMBER, "a member needs fleet.membership"),
            (&[("fleet.device", "eth0")], "give fleet.name, or remove it"),
            (&[("fleet.membership", "etcd")], "give fleet.name, or remove it"),
        ] {
            let error = fault(least().flag("listen", "192.0.2.1:80").flags(flags));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_fleet_has_named_addresses_and_a_seed_of_its_own() {
        let file = ("fleet.membership", "file:/etc/fleet.json");
        let error = fault(least().flag("listen", "0.0.0.0:80").flags(MEMBER).flags(&[file]));
        assert!(error.contains("expected a named address"), "{error}");
        let seed = Partition::DEFAULT_SEED.to_string();
        let error = fault(member().flags(&[file, ("fleet.seed", &seed)]));
        assert!(error.contains("seed"), "{error}");
        let error = fault(member().flag("fleet.membership", "file:fleet.json"));
        assert!(error.contains("an absolute path"), "{error}");
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn a_member_in_etcd_is_told_what_is_missing() {
        let etcd = || member().flag("fleet.membership", "etcd");
        let server = ("fleet.etcd", "http://10.0.0.9:2379");
        let address = ("fleet.addresses", "10.0.0.1");
        assert!(etcd().flags(&[server, address]).build_for(1).is_ok());
        let without_tls = !cfg!(feature = "tls");
        let of_tls = if without_tls { "built without TLS" } else { "give fleet.etcd_ca" };
        for (flags, expected) in [
            (&[address][..], "give fleet.etcd: where"),
            (&[server], "give fleet.addresses"),
            (&[address, ("fleet.etcd", "10.0.0.9:2379")], "expected the address of an etcd server"),
            (&[address, ("fleet.etcd", "https://etcd")], of_tls),
            (&[server, address, ("fleet.etcd_user", "u")], "give fleet.etcd_password_file as well"),
            (&[server, address, ("fleet.etcd_cert", "/c")], "give fleet.etcd_key as well"),
            (&[server, address, ("fleet.etcd_key", "/k")], "give fleet.etcd_cert as well"),
        ] {
            let error = fault(etcd().flags(flags));
            assert!(error.contains(expected), "{error}");
        }
    }
}
