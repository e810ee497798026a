//! Conversion of the addresses of a node.

use pushonce_core::Addresses;

use crate::pb::peer::v1 as pb;

impl From<Addresses> for pb::Addresses {
    fn from(addresses: Addresses) -> pb::Addresses {
        let Addresses { peer, grpc, http, https, quic } = addresses;
        pb::Addresses { peer, grpc, http, https, quic }
    }
}

impl From<pb::Addresses> for Addresses {
    fn from(addresses: pb::Addresses) -> Addresses {
        let pb::Addresses { peer, grpc, http, https, quic } = addresses;
        Addresses { peer, grpc, http, https, quic }
    }
}
