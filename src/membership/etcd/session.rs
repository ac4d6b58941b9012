//! What a membership asks of etcd, as requests.

use std::num::NonZeroU64;
use std::time::Duration;

use serde_json::json;

use super::client::{Client, Lines};
use super::keys::{FleetKeys, Told};
use super::wire::{self, LeaseAnswer, RangeAnswer, Streamed, TxnAnswer};
use super::{EtcdError, EtcdSettings};
use crate::fleet::{Input, Lease, OwnWords, Revision, fleet_to_value, member_to_value};
use crate::plan::fleet::Fleet;

/// The keys of a fleet, on one server.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    keys: FleetKeys,
    patience: Duration,
}

impl Session {
    /// On the server of this number, counted round. Nothing is asked yet.
    pub(super) fn new(settings: &EtcdSettings, nth: usize) -> Self {
        let EtcdSettings { endpoints, fleet_name, user, tls, membership } = settings;
        let endpoint = endpoints[nth % endpoints.len()].clone();
        let client = Client::new(endpoint, tls.clone(), user.clone());
        let keys = FleetKeys::new(fleet_name);
        Self { client, keys, patience: membership.timing.timeout() }
    }

    pub(super) async fn read_all(&self) -> Result<Input, EtcdError> {
        let request = wire::range(self.keys.prefix());
        let answer: RangeAnswer = self.client.ask("/v3/kv/range", &request, self.patience).await?;
        let revision = Revision(answer.header.revision);
        let content = self.keys.read(&answer);
        Ok(Input::Read { store: answer.header.cluster_id, revision, content })
    }

    pub(super) async fn grant_lease(&self, time: Duration) -> Result<Input, EtcdError> {
        let request = json!({"TTL": time.as_secs().to_string()});
        let answer: LeaseAnswer =
            self.client.ask("/v3/lease/grant", &request, self.patience).await?;
        match NonZeroU64::new(answer.id) {
            Some(id) => Ok(Input::LeaseGranted(Lease(id))),
            None => {
                let reason = "a lease without a number".to_owned();
                let endpoint = self.client.endpoint.clone();
                Err(EtcdError::Answer { endpoint, path: "/v3/lease/grant", reason })
            }
        }
    }

    pub(super) async fn keep_alive(
        &self,
        lease: Lease,
        patience: Duration,
    ) -> Result<Input, EtcdError> {
        let request = json!({"ID": lease.0.to_string()});
        let answer: Streamed<LeaseAnswer> =
            self.client.ask("/v3/lease/keepalive", &request, patience).await?;
        match answer {
            Streamed { result: Some(LeaseAnswer { ttl: 0, .. }), .. } => {
                Ok(Input::LeaseLost(lease))
            }
            Streamed { result: Some(_), .. } => Ok(Input::LeaseKept(lease)),
            Streamed { error, .. } => {
                let reason = error.unwrap_or_default().message;
                let endpoint = self.client.endpoint.clone();
                Err(EtcdError::Answer { endpoint, path: "/v3/lease/keepalive", reason })
            }
        }
    }

    pub(super) async fn publish(
        &self,
        words: &OwnWords,
        lease: Lease,
        expected: Revision,
    ) -> Result<Input, EtcdError> {
        let key = self.keys.of_member(words.member.name());
        let value = member_to_value(words);
        let request = wire::put_if(&key, expected.0, &value, Some(lease.0.get()));
        let answer = self.client.ask("/v3/kv/txn", &request, self.patience).await;
        match answer {
            Ok(TxnAnswer { header, succeeded }) => {
                let written = succeeded.then_some(Revision(header.revision));
                Ok(Input::Publication { written })
            }
            Err(error) if error.is_not_found() => Ok(Input::LeaseLost(lease)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn swap_fleet(
        &self,
        fleet: &Fleet,
        version: u64,
        expected: Revision,
    ) -> Result<Input, EtcdError> {
        let key = self.keys.of_fleet();
        let request = wire::put_if(&key, expected.0, &fleet_to_value(fleet, version), None);
        let answer: TxnAnswer = self.client.ask("/v3/kv/txn", &request, self.patience).await?;
        Ok(Input::Swapped(answer.succeeded))
    }

    /// Says by `words` that the key goes, and ends the lease, with which it does.
    pub(super) async fn withdraw(
        &self,
        words: &OwnWords,
        lease: Lease,
        expected: Revision,
    ) -> Result<Input, EtcdError> {
        if expected != Revision::NONE {
            self.publish(words, lease, expected).await?;
        }
        let request = json!({"ID": lease.0.to_string()});
        let ended: Result<wire::Header, EtcdError> =
            self.client.ask("/v3/lease/revoke", &request, self.patience).await;
        match ended {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Input::Withdrawn),
        }
    }

    pub(super) async fn watch(&self, first: Revision) -> Result<Lines, EtcdError> {
        let request = wire::watch(self.keys.prefix(), first.0);
        self.client.stream("/v3/watch", &request, self.patience).await
    }

    /// The next that a watch tells.
    pub(super) async fn next_told(&self, lines: &mut Lines) -> Result<Told, EtcdError> {
        Ok(self.keys.told(lines.next().await?))
    }
}
