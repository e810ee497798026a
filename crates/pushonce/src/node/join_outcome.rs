//! Evaluates the response to a join request. Pure.
//!
//! A node asks the addresses of `--join`, the peers file and the view. By now a node of another cluster,
//! another program or nothing may listen there. So a response to a member counts only when it carries the
//! id of the member's own cluster, and only a committed decision of the control group ends a node.

use pushonce_core::{ClusterId, ClusterTimes, FailPoint, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tonic::Status;

/// The node that sends a join request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinRequester {
    /// A node with an empty data directory. It accepts the response of the addresses it was given.
    New,
    /// A node whose data directory belongs to a cluster.
    Member {
        /// The cluster of the data directory.
        cluster: ClusterId,
        /// The id of the node in that cluster.
        node: NodeId,
    },
}

/// The meaning of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinOutcome {
    /// The cluster counts this process as its member.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// The id of the node in that cluster.
        node: NodeId,
        /// The consensus times that the node must use.
        times: ClusterTimes,
        /// The certificate, for a node that joined with a token.
        certificate: Option<pb::NodeCertificate>,
    },
    /// The control group committed that this data directory is not, or no longer, a member.
    NotMember(String),
    /// Another process runs as this node, as far as the responding node can see.
    AlreadyRunning(String),
    /// The cluster rejects the settings of this node.
    SettingsRejected(String),
    /// A node of another cluster listens at the address; its response does not count.
    WrongCluster {
        /// The cluster of the responding node.
        other_cluster: ClusterId,
    },
    /// No conclusive response: retry, or ask another address.
    Inconclusive(String),
}

impl JoinRequester {
    /// Evaluates a response for this node.
    pub(super) fn evaluate(self, response: Result<pb::JoinResponse, Status>) -> JoinOutcome {
        let response = match response {
            Ok(response) => response,
            // A status carries no cluster id, so any program may have sent it.
            Err(status) => return JoinOutcome::Inconclusive(status.message().to_owned()),
        };
        let Some(responding_cluster) = parse_cluster_id(&response.cluster_id) else {
            return JoinOutcome::Inconclusive("the response has no cluster id".to_owned());
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
                    let (node, certificate) = (NodeId(response.node_id), response.certificate);
                    self.on_accepted(responding_cluster, node, times, certificate)
                }
                _ => JoinOutcome::Inconclusive(
                    "the response has no valid consensus times".to_owned(),
                ),
            },
        }
    }

    fn on_accepted(
        self,
        cluster: ClusterId,
        node: NodeId,
        times: ClusterTimes,
        certificate: Option<pb::NodeCertificate>,
    ) -> JoinOutcome {
        match self {
            JoinRequester::Member { node: own_node, .. } if own_node != node => {
                JoinOutcome::Inconclusive(format!(
                    "the response is for {node}, but this node is {own_node}"
                ))
            }
            _ if node == NodeId(0) => {
                JoinOutcome::Inconclusive("the response has no node id".to_owned())
            }
            _ => JoinOutcome::Member { cluster, node, times, certificate },
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
        // A version conflict does not end the node: it is logged, and another build may be started.
        Kind::Version => JoinOutcome::Inconclusive(refusal.text),
        Kind::Unspecified => {
            JoinOutcome::Inconclusive(format!("rejected with an unknown kind: {}", refusal.text))
        }
    }
}

/// Parses a cluster id; `None` unless it has 16 bytes.
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
        Ok(pb::JoinResponse { cluster_id, node_id: node, refusal, times, certificate: None })
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
        let (times, certificate) = (ClusterTimes::default(), None);
        assert_eq!(member, JoinOutcome::Member { cluster: OURS, node: ME, times, certificate });
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
        assert!(
            matches!(unknown, JoinOutcome::Inconclusive(_)),
            "an unknown kind comes from a newer version"
        );
    }

    #[test]
    fn new_node_accepts_the_response_of_a_given_address() {
        let joined = JoinRequester::New.evaluate(join_response(8, 4, None));
        let (cluster, node, times) = (ClusterId(8), NodeId(4), ClusterTimes::default());
        assert_eq!(joined, JoinOutcome::Member { cluster, node, times, certificate: None });
        let rejected = JoinRequester::New.evaluate(join_response(8, 0, Some(Kind::Settings)));
        assert_eq!(rejected, JoinOutcome::SettingsRejected("why".to_owned()));
    }
}
