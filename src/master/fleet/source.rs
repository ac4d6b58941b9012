//! Where the list of members comes from, as the configuration says.

use crate::config::{FleetConfig, FleetMembership};
use crate::membership::Source;
use crate::plan::fleet::{MacAddress, MemberName};

/// The source of the list; an error names the setting at fault. `mac` is the address of the device.
pub(super) fn source(
    config: &FleetConfig,
    member: &MemberName,
    mac: Option<MacAddress>,
) -> Result<Source, String> {
    match &config.membership {
        FleetMembership::File(path) => {
            Ok(Source::File { path: path.clone(), name: member.clone() })
        }
        FleetMembership::Etcd => etcd(config, member, mac),
    }
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &FleetConfig, _: &MemberName, _: Option<MacAddress>) -> Result<Source, String> {
    Err("fleet.membership: etcd: this program was built without: build it with `--features etcd`"
        .to_owned())
}

#[cfg(feature = "etcd")]
fn etcd(
    config: &FleetConfig,
    name: &MemberName,
    mac: Option<MacAddress>,
) -> Result<Source, String> {
    use crate::config::{EtcdConfig, read_text};
    use crate::fleet::{Settings, Shape, Timing};
    use crate::membership::{Endpoint, EtcdSettings, MembershipThread, TlsFiles, User};
    use crate::plan::fleet::Member;

    let EtcdConfig { endpoints, ca, cert, key, user, password_file } = &config.etcd;
    let endpoints = endpoints.iter().map(|it| it.parse()).collect::<Result<Vec<Endpoint>, _>>();
    let endpoints = endpoints.map_err(|reason| format!("fleet.etcd: {reason}"))?;
    let user = match (user, password_file) {
        (Some(name), Some(path)) => {
            let text = read_text(path, 1);
            let text = text.map_err(|error| {
                format!("fleet.etcd_password_file: {}: {error}", path.display())
            })?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            Some(User { name: name.clone(), password })
        }
        _ => None,
    };
    let member = Member::new(name.clone(), config.addresses.iter().copied());
    let member = member.map_err(|error| format!("fleet.addresses: {error}"))?;
    let membership = Settings {
        member: member.with_weight(config.weight).with_mac(mac),
        instance: MembershipThread::new_instance(),
        shape: Shape { slots: config.slots, seed: config.seed, kept: config.kept },
        timing: Timing { lease: config.lease, ..Timing::default() },
    };
    let tls = TlsFiles { ca: ca.clone(), certificate: cert.clone(), key: key.clone() };
    let fleet_name = config.name.as_str().to_owned();
    Ok(Source::Etcd(Box::new(EtcdSettings { endpoints, fleet_name, user, tls, membership })))
}
