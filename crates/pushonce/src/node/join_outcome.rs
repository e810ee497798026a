//! What the answer to a join means to the node that asked. Pure.
//!
//! A node asks addresses: its `--join`, the peers file, the view. Anybody may listen there by now: a
//! node of another cluster, another program, or nothing. So an answer to a member counts only when it
//! carries the id of the member's own cluster, and only the control group's committed decision ends a
//! node.

use pushonce_core::{ClusterId, ClusterTimes, FailPoint, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tonic::Status;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinRequester {
    /// A node with an empty data directory. It takes the answer of the addresses it was given.
    New,
    /// A node whose data directory belongs to a cluster.
    Member {
        /// That cluster.
        cluster: ClusterId,
        /// Its id there.
        node: NodeId,
    },
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinOutcome {
    /// The cluster counts this process as its member.
    Member {
        /// Which cluster.
        cluster: ClusterId,
        /// Under which id.
        node: NodeId,
        /// The times of consensus that it has to use.
        times: ClusterTimes,
    },
    /// The control group committed that this data directory is no member, or not any more.
    NotMember(String),
    /// A process runs as this node already, as the answering node sees it.
    AlreadyRunning(String),
    /// The cluster does not accept the settings of this node.
    SettingsRejected(String),
    /// A node of another cluster listens at the address: it has no say.
    WrongCluster {
        /// The cluster of the answering node.
        other_cluster: ClusterId,
    },
    /// No answer that counts: retry, or ask another address.
    Inconclusive(String),
}

impl JoinRequester {
    /// What an answer means to this node.
    pub(super) fn evaluate(self, response: Result<pb::JoinResponse, Status>) -> JoinOutcome {
        let response = match response {
            Ok(response) => response,
            // A status carries no cluster id: anybody may send it.
            Err(status) => return JoinOutcome::Inconclusive(status.message().to_owned()),
        };
        let Some(responding_cluster) = parse_cluster_id(&response.cluster_id) else {
            return JoinOutcome::Inconclusive("the answer has no cluster id".to_owned());
        };
        if FailPoint::ForeignRejectionCounts.is_active() && response.refusal.is_some() {
            return JoinOutcome::NotMember("another cluster rejected it".to_owned());
        }
        if let JoinRequester::Member { cluster, .. } = self
            && cluster != responding_cluster
        {
            return JoinOutcome::WrongCluster { other_cluster: responding_cluster };
        }
        match response.refusal {
            Some(refusal) => from_refusal(refusal, responding_cluster),
            None => match response.times.map(ClusterTimes::try_from) {
                Some(Ok(times)) => {
                    self.on_accepted(responding_cluster, NodeId(response.node_id), times)
                }
                _ => JoinOutcome::Inconclusive(
                    "the answer has no valid times of consensus".to_owned(),
                ),
            },
        }
    }

    fn on_accepted(self, cluster: ClusterId, node: NodeId, times: ClusterTimes) -> JoinOutcome {
        match self {
            JoinRequester::Member { node: own_node, .. } if own_node != node => {
                JoinOutcome::Inconclusive(format!("the answer is for {node}, this is {own_node}"))
            }
            _ if node == NodeId(0) => {
                JoinOutcome::Inconclusive("the answer has no node id".to_owned())
            }
            _ => JoinOutcome::Member { cluster, node, times },
        }
    }
}

fn from_refusal(refusal: pb::JoinRefusal, responding_cluster: ClusterId) -> JoinOutcome {
    use pb::join_refusal::Kind;
    match refusal.kind() {
        Kind::NotMember => JoinOutcome::NotMember(refusal.text),
        Kind::Running => JoinOutcome::AlreadyRunning(refusal.text),
        Kind::Settings => JoinOutcome::SettingsRejected(refusal.text),
        Kind::OtherCluster => JoinOutcome::WrongCluster { other_cluster: responding_cluster },
        // Nothing that ends a node: it says so, and waits for another build.
        Kind::Version => JoinOutcome::Inconclusive(refusal.text),
        Kind::Unspecified => {
            JoinOutcome::Inconclusive(format!("a refusal of an unknown kind: {}", refusal.text))
        }
    }
}

/// `NoFault` for what has not 16 bytes.
pub(super) fn parse_cluster_id(bytes: &[u8]) -> Option<ClusterId> {
    bytes.try_into().ok().map(|bytes| ClusterId(u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use pb::join_refusal::Kind;

    use super::*;

    const OURS: ClusterId = ClusterId(7);
    const ME: NodeId = NodeId(2);
    const MEMBER: JoinRequester = JoinRequester::Member { cluster: OURS, node: ME };

    fn join_response(
        cluster: u128,
        node: u64,
        refusal: Option<Kind>,
    ) -> Result<pb::JoinResponse, Status> {
        let refusal =
            refusal.map(|kind| pb::JoinRefusal { kind: kind.into(), text: "why".to_owned() });
        let cluster_id = cluster.to_be_bytes().to_vec().into();
        let times = Some(ClusterTimes::default().into());
        Ok(pb::JoinResponse { cluster_id, node_id: node, refusal, times })
    }

    #[test]
    fn member_ignores_responses_from_other_clusters() {
        let other_cluster = ClusterId(8);
        for refusal in [None, Some(Kind::NotMember), Some(Kind::Settings), Some(Kind::Running)] {
            let outcome = MEMBER.evaluate(join_response(8, 2, refusal));
            assert_eq!(outcome, JoinOutcome::WrongCluster { other_cluster }, "{refusal:?}");
        }
        let removed = MEMBER.evaluate(join_response(7, 0, Some(Kind::NotMember)));
        assert_eq!(removed, JoinOutcome::NotMember("why".to_owned()));
        let member = MEMBER.evaluate(join_response(7, 2, None));
        assert_eq!(
            member,
            JoinOutcome::Member { cluster: OURS, node: ME, times: ClusterTimes::default() }
        );
    }

    #[test]
    fn grpc_status_or_malformed_response_is_inconclusive() {
        let statuses = [
            Status::failed_precondition("removed"),
            Status::invalid_argument("belongs to another cluster"),
            Status::already_exists("name taken"),
            Status::aborted("running"),
            Status::unimplemented("no such service"),
        ];
        for status in statuses {
            for asker in [JoinRequester::New, MEMBER] {
                let outcome = asker.evaluate(Err(status.clone()));
                assert!(matches!(outcome, JoinOutcome::Inconclusive(_)), "{status:?}");
            }
        }
        let without_cluster_id = pb::JoinResponse { node_id: 2, ..pb::JoinResponse::default() };
        assert!(matches!(MEMBER.evaluate(Ok(without_cluster_id)), JoinOutcome::Inconclusive(_)));
        assert!(matches!(MEMBER.evaluate(join_response(7, 3, None)), JoinOutcome::Inconclusive(_)));
        assert!(matches!(
            JoinRequester::New.evaluate(join_response(7, 0, None)),
            JoinOutcome::Inconclusive(_)
        ));
        let without_times = MEMBER
            .evaluate(join_response(7, 2, None).map(|it| pb::JoinResponse { times: None, ..it }));
        assert!(matches!(without_times, JoinOutcome::Inconclusive(_)));
        let unknown = MEMBER.evaluate(join_response(7, 0, Some(Kind::Unspecified)));
        assert!(matches!(unknown, JoinOutcome::Inconclusive(_)), "of a newer version");
    }

    #[test]
    fn new_node_accepts_the_response_of_a_given_address() {
        let joined = JoinRequester::New.evaluate(join_response(8, 4, None));
        let (cluster, node, times) = (ClusterId(8), NodeId(4), ClusterTimes::default());
        assert_eq!(joined, JoinOutcome::Member { cluster, node, times });
        let rejected = JoinRequester::New.evaluate(join_response(8, 0, Some(Kind::Settings)));
        assert_eq!(rejected, JoinOutcome::SettingsRejected("why".to_owned()));
    }
}
