//! The join command on the wire between two nodes.

use bytes::Bytes;
use pushonce_consensus::LogMark;
use pushonce_control::{Incarnation, JoinCommand, JoinCredential, ProcessRun, Profile};
use pushonce_core::{BuildInfo, ClusterId, ClusterVersion, NodeId, VersionRange};
use pushonce_proto::pb::peer::v1 as pb;
use tonic::Status;

/// Encodes the command of a node. `starting` is whether the node does not use its data directory yet.
pub(super) fn encode(joining: &JoinCommand, starting: bool) -> pb::JoinRequest {
    let Profile { name, addresses, region, zone, roles, weight, build } = joining.profile.clone();
    pb::JoinRequest {
        incarnation: joining.incarnation.0.to_be_bytes().to_vec().into(),
        cluster_id: joining.cluster.map(cluster_id_bytes).unwrap_or_default(),
        node_id: joining.node.map_or(0, |node| node.0),
        name,
        addresses: Some(addresses.into()),
        region,
        zone,
        roles: roles.to_string(),
        weight,
        run: joining.run.count,
        run_token: joining.run.token,
        starting,
        times: joining.times.map(Into::into),
        log: joining.log.map(|LogMark { log, writes }| pb::LogMark { log, writes }),
        release: build.release,
        version_min: build.supported.min.0.into(),
        version_max: build.supported.max.0.into(),
        join_secret: Bytes::new(),
        certificate_request: Bytes::new(),
    }
}

/// Decodes the command of a node. The control group validates the profile; the receiver of the request sets the
/// credential.
///
/// # Errors
/// `INVALID_ARGUMENT` with the field that is missing or malformed.
pub(super) fn decode(request: pb::JoinRequest) -> Result<JoinCommand, Status> {
    let invalid_request =
        |problem: &str| Status::invalid_argument(format!("the join request has {problem}"));
    let incarnation =
        parse_id(&request.incarnation).ok_or_else(|| invalid_request("no incarnation"))?;
    let cluster = match request.cluster_id.is_empty() {
        true => None,
        false => Some(
            parse_id(&request.cluster_id)
                .ok_or_else(|| invalid_request("an invalid cluster id"))?,
        ),
    };
    let addresses = request.addresses.ok_or_else(|| invalid_request("no addresses"))?;
    let roles = request.roles.parse();
    let roles = roles.map_err(|error| invalid_request(&format!("invalid roles: {error}")))?;
    let supported = VersionRange {
        min: parse_version(request.version_min),
        max: parse_version(request.version_max),
    };
    Ok(JoinCommand {
        incarnation: Incarnation(incarnation),
        run: ProcessRun { count: request.run, token: request.run_token },
        cluster: cluster.map(ClusterId),
        node: (request.node_id != 0).then_some(NodeId(request.node_id)),
        profile: Profile {
            name: request.name,
            addresses: addresses.into(),
            region: request.region,
            zone: request.zone,
            roles,
            weight: request.weight,
            build: BuildInfo { release: request.release, supported },
        },
        times: request.times.map(Into::into),
        log: request.log.map(|pb::LogMark { log, writes }| LogMark { log, writes }),
        credential: JoinCredential::None,
    })
}

/// Encodes a cluster id.
pub(super) fn cluster_id_bytes(cluster: ClusterId) -> Bytes {
    cluster.0.to_be_bytes().to_vec().into()
}

/// Parses a version. A number that is not a version becomes one that no build supports.
fn parse_version(number: u32) -> ClusterVersion {
    u16::try_from(number).map(ClusterVersion).unwrap_or_default()
}

fn parse_id(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Addresses, ConsensusTimes, Roles};

    use super::*;

    fn first_join() -> JoinCommand {
        JoinCommand {
            incarnation: Incarnation(0x1234),
            run: ProcessRun { count: 4, token: 9 },
            cluster: None,
            node: None,
            profile: Profile {
                name: "a".to_owned(),
                addresses: Addresses { peer: "h:7091".to_owned(), ..Addresses::default() },
                region: "eu-west".to_owned(),
                zone: String::new(),
                roles: Roles::default(),
                weight: 2,
                build: BuildInfo {
                    release: "0.1.0".to_owned(),
                    supported: VersionRange::supported(),
                },
            },
            times: None,
            log: None,
            credential: JoinCredential::None,
        }
    }

    #[test]
    fn join_command_round_trips() {
        let again = JoinCommand {
            cluster: Some(ClusterId(7)),
            node: Some(NodeId(3)),
            times: Some(ConsensusTimes::default()),
            log: Some(LogMark { log: 5, writes: 6 }),
            ..first_join()
        };
        for joining in [first_join(), again] {
            let decoded = decode(encode(&joining, true));
            assert_eq!(decoded.map_err(|status| status.to_string()), Ok(joining));
        }
    }

    #[test]
    fn malformed_join_request_is_rejected() {
        let request = encode(&first_join(), false);
        for invalid in [
            pb::JoinRequest { incarnation: Bytes::new(), ..request.clone() },
            pb::JoinRequest { cluster_id: Bytes::from_static(b"7"), ..request.clone() },
            pb::JoinRequest { addresses: None, ..request.clone() },
            pb::JoinRequest { roles: "king".to_owned(), ..request },
        ] {
            assert!(decode(invalid).is_err());
        }
    }
}
