//! Which ends a session has, which of them compute, who is linked to whom, and who plays which role.

use crate::Role;
use sordino_net::Endpoint;

/// The kind of a session: what its protocol asks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Three servers compute; owners share inputs with them and receive outputs from them.
    #[default]
    Three,
    /// Two ends compute: the model's owner, and the client, who has the data and receives the answer.
    Two,
}

/// The ends of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    kind: Kind,
    owners: u8,
}

/// Data owners of a session, at most.
pub const MOST_OWNERS: u8 = 16;

/// Ends of a session with three servers before its data owners: the servers, the model's owner, the receiver.
const FIRST_OWNER: u8 = 5;

impl Kind {
    /// The end that plays a role.
    #[must_use]
    pub fn end(self, role: Role) -> Endpoint {
        match (self, role) {
            (Self::Three, Role::ModelOwner) => Endpoint(3),
            (Self::Three, Role::Receiver) => Endpoint(4),
            (Self::Three, Role::DataOwner(k)) => Endpoint(FIRST_OWNER.saturating_add(k)),
            (Self::Two, Role::ModelOwner) => Endpoint(0),
            (Self::Two, _) => Endpoint(1),
        }
    }

    /// Ends that compute.
    #[must_use]
    pub fn computing(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Two => 2,
        }
    }
}

impl Topology {
    /// Three servers, the model's owner, the receiver and so many data owners, each an end of its own.
    #[must_use]
    pub fn three(data_owners: u8) -> Self {
        Self { kind: Kind::Three, owners: data_owners }
    }

    /// The model's owner and the client.
    #[must_use]
    pub fn two() -> Self {
        Self { kind: Kind::Two, owners: 1 }
    }

    /// Of this kind; two ends have one data owner.
    #[must_use]
    pub fn of(kind: Kind, data_owners: u8) -> Self {
        match kind {
            Kind::Three => Self::three(data_owners),
            Kind::Two => Self::two(),
        }
    }

    /// All ends, the computing ones first.
    #[must_use]
    pub fn ends(&self) -> Vec<Endpoint> {
        let most = match self.kind {
            Kind::Three => FIRST_OWNER.saturating_add(self.owners),
            Kind::Two => 2,
        };
        (0..most).map(Endpoint).collect()
    }

    /// Ends that compute.
    #[must_use]
    pub fn computing(&self) -> Vec<Endpoint> {
        (0..self.kind.computing()).map(Endpoint).collect()
    }

    /// Ends that own something and do not compute.
    #[must_use]
    pub fn owning(&self) -> Vec<Endpoint> {
        self.ends().into_iter().filter(|e| !self.computes(*e)).collect()
    }

    /// True for an end that computes.
    #[must_use]
    pub fn computes(&self, end: Endpoint) -> bool {
        end.0 < self.kind.computing()
    }

    /// True for ends that talk to each other: owners only talk to those who compute.
    #[must_use]
    pub fn linked(&self, a: Endpoint, b: Endpoint) -> bool {
        a != b && (self.computes(a) || self.computes(b))
    }

    /// The ends that an end talks to.
    #[must_use]
    pub fn peers(&self, end: Endpoint) -> Vec<Endpoint> {
        self.ends().into_iter().filter(|e| self.linked(end, *e)).collect()
    }

    /// The end that plays a role.
    #[must_use]
    pub fn end(&self, role: Role) -> Endpoint {
        self.kind.end(role)
    }

    /// Data owners.
    #[must_use]
    pub fn data_owners(&self) -> u8 {
        self.owners
    }

    /// An end's name in sentences.
    #[must_use]
    pub fn name(&self, end: Endpoint) -> String {
        match (self.kind, end.0) {
            (Kind::Three, n @ 0..=2) => format!("server {n}"),
            (Kind::Three, 3) | (Kind::Two, 0) => "the model owner".into(),
            (Kind::Three, 4) => "the receiver".into(),
            (Kind::Three, FIRST_OWNER) if self.owners < 2 => "the data owner".into(),
            (Kind::Three, n) => format!("data owner {}", n - FIRST_OWNER + 1),
            (Kind::Two, _) => "the client".into(),
        }
    }

    /// An end's name in certificates: letters, digits and hyphens.
    #[must_use]
    pub fn slug(&self, end: Endpoint) -> String {
        match (self.kind, end.0) {
            (Kind::Three, n @ 0..=2) => format!("server-{n}"),
            (Kind::Three, 3) => "model-owner".into(),
            (Kind::Three, 4) => "receiver".into(),
            (Kind::Three, n) => format!("data-owner-{}", n - FIRST_OWNER + 1),
            (Kind::Two, 0) => "two-party-model-owner".into(),
            (Kind::Two, _) => "two-party-client".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_end_has_names_of_its_own_and_every_role_an_end() {
        for topology in [Topology::three(1), Topology::three(MOST_OWNERS), Topology::two()] {
            let ends = topology.ends();
            assert_eq!(ends.iter().map(|e| topology.name(*e)).collect::<BTreeSet<_>>().len(), ends.len());
            assert_eq!(ends.iter().map(|e| topology.slug(*e)).collect::<BTreeSet<_>>().len(), ends.len());
            let owners = (0..topology.data_owners()).map(Role::DataOwner);
            assert!(owners.chain([Role::ModelOwner, Role::Receiver]).all(|r| ends.contains(&topology.end(r))));
            assert_eq!(topology.computing().len() + topology.owning().len(), ends.len());
        }
    }

    #[test]
    fn owners_talk_to_servers_alone() {
        let three = Topology::three(2);
        assert_eq!(three.peers(Endpoint(0)).len(), 6);
        assert_eq!(three.peers(Endpoint(4)), three.computing());
        assert!(!three.linked(Endpoint(3), Endpoint(6)) && !three.linked(Endpoint(1), Endpoint(1)));
        assert_eq!(Topology::two().peers(Endpoint(0)), [Endpoint(1)]);
    }
}
