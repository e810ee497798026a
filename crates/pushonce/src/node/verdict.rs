//! What the answer to a join means to the node that asked. Pure.
//!
//! A node asks addresses: its `--join`, the peers file, the view. Anybody may listen there by now: a
//! node of another cluster, another program, or nothing. So an answer to a member counts only when it
//! carries the id of the member's own cluster, and only the control group's committed decision ends a
//! node.

use pushonce_core::{ClusterId, ClusterTimes, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tonic::Status;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
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
pub(super) enum Verdict {
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
    Running(String),
    /// The cluster does not accept the settings of this node.
    Rejected(String),
    /// A node of another cluster listens at the address: it has no say.
    OtherCluster {
        /// The cluster of the answering node.
        theirs: ClusterId,
    },
    /// No answer that counts: retry, or ask another address.
    NoAnswer(String),
}

impl Asker {
    /// What an answer means to this node.
    pub(super) fn judge(self, answer: Result<pb::JoinResponse, Status>) -> Verdict {
        let answer = match answer {
            Ok(answer) => answer,
            // A status carries no cluster id: anybody may send it.
            Err(status) => return Verdict::NoAnswer(status.message().to_owned()),
        };
        let Some(theirs) = cluster_id(&answer.cluster_id) else {
            return Verdict::NoAnswer("the answer has no cluster id".to_owned());
        };
        #[cfg(feature = "planted-bugs")]
        if super::planted::any_answer_counts() && answer.refusal.is_some() {
            return Verdict::NotMember("planted".to_owned());
        }
        if let Asker::Member { cluster, .. } = self
            && cluster != theirs
        {
            return Verdict::OtherCluster { theirs };
        }
        match answer.refusal {
            Some(refusal) => refused(refusal, theirs),
            None => match answer.times.map(ClusterTimes::try_from) {
                Some(Ok(times)) => self.accepted(theirs, NodeId(answer.node_id), times),
                _ => Verdict::NoAnswer("the answer has no valid times of consensus".to_owned()),
            },
        }
    }

    fn accepted(self, cluster: ClusterId, node: NodeId, times: ClusterTimes) -> Verdict {
        match self {
            Asker::Member { node: mine, .. } if mine != node => {
                Verdict::NoAnswer(format!("the answer is for {node}, this is {mine}"))
            }
            _ if node == NodeId(0) => Verdict::NoAnswer("the answer has no node id".to_owned()),
            _ => Verdict::Member { cluster, node, times },
        }
    }
}

fn refused(refusal: pb::JoinRefusal, theirs: ClusterId) -> Verdict {
    use pb::join_refusal::Kind;
    match refusal.kind() {
        Kind::NotMember => Verdict::NotMember(refusal.text),
        Kind::Running => Verdict::Running(refusal.text),
        Kind::Settings => Verdict::Rejected(refusal.text),
        Kind::OtherCluster => Verdict::OtherCluster { theirs },
        // Nothing that ends a node: it says so, and waits for another build.
        Kind::Version => Verdict::NoAnswer(refusal.text),
        Kind::Unspecified => {
            Verdict::NoAnswer(format!("a refusal of an unknown kind: {}", refusal.text))
        }
    }
}

/// `None` for what has not 16 bytes.
pub(super) fn cluster_id(bytes: &[u8]) -> Option<ClusterId> {
    bytes.try_into().ok().map(|bytes| ClusterId(u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use pb::join_refusal::Kind;

    use super::*;

    const OURS: ClusterId = ClusterId(7);
    const ME: NodeId = NodeId(2);
    const MEMBER: Asker = Asker::Member { cluster: OURS, node: ME };

    fn answer(cluster: u128, node: u64, refusal: Option<Kind>) -> Result<pb::JoinResponse, Status> {
        let refusal =
            refusal.map(|kind| pb::JoinRefusal { kind: kind.into(), text: "why".to_owned() });
        let cluster_id = cluster.to_be_bytes().to_vec().into();
        let times = Some(ClusterTimes::default().into());
        Ok(pb::JoinResponse { cluster_id, node_id: node, refusal, times })
    }

    #[test]
    fn an_answer_counts_for_a_member_only_with_the_id_of_its_cluster() {
        let theirs = ClusterId(8);
        for refusal in [None, Some(Kind::NotMember), Some(Kind::Settings), Some(Kind::Running)] {
            let verdict = MEMBER.judge(answer(8, 2, refusal));
            assert_eq!(verdict, Verdict::OtherCluster { theirs }, "{refusal:?}");
        }
        let gone = MEMBER.judge(answer(7, 0, Some(Kind::NotMember)));
        assert_eq!(gone, Verdict::NotMember("why".to_owned()));
        let member = MEMBER.judge(answer(7, 2, None));
        assert_eq!(
            member,
            Verdict::Member { cluster: OURS, node: ME, times: ClusterTimes::default() }
        );
    }

    #[test]
    fn a_status_or_a_malformed_answer_is_no_verdict_whatever_it_says() {
        let statuses = [
            Status::failed_precondition("removed"),
            Status::invalid_argument("belongs to another cluster"),
            Status::already_exists("name taken"),
            Status::aborted("running"),
            Status::unimplemented("no such service"),
        ];
        for status in statuses {
            for asker in [Asker::New, MEMBER] {
                let verdict = asker.judge(Err(status.clone()));
                assert!(matches!(verdict, Verdict::NoAnswer(_)), "{status:?}");
            }
        }
        let unsigned = pb::JoinResponse { node_id: 2, ..pb::JoinResponse::default() };
        assert!(matches!(MEMBER.judge(Ok(unsigned)), Verdict::NoAnswer(_)));
        assert!(matches!(MEMBER.judge(answer(7, 3, None)), Verdict::NoAnswer(_)));
        assert!(matches!(Asker::New.judge(answer(7, 0, None)), Verdict::NoAnswer(_)));
        let timeless =
            MEMBER.judge(answer(7, 2, None).map(|it| pb::JoinResponse { times: None, ..it }));
        assert!(matches!(timeless, Verdict::NoAnswer(_)));
        let unknown = MEMBER.judge(answer(7, 0, Some(Kind::Unspecified)));
        assert!(matches!(unknown, Verdict::NoAnswer(_)), "of a newer version");
    }

    #[test]
    fn a_new_node_takes_the_answer_of_the_address_it_was_given() {
        let joined = Asker::New.judge(answer(8, 4, None));
        let (cluster, node, times) = (ClusterId(8), NodeId(4), ClusterTimes::default());
        assert_eq!(joined, Verdict::Member { cluster, node, times });
        let rejected = Asker::New.judge(answer(8, 0, Some(Kind::Settings)));
        assert_eq!(rejected, Verdict::Rejected("why".to_owned()));
    }
}
