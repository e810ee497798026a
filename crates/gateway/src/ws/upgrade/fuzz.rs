//! The subscription in the query of `/ws`, with the position to resume from.

use pushonce_core::{Position, StartFrom};
use pushonce_proto::client::{ClientCommand, Encoding};

use super::parse_subscription;
use crate::query;

#[test]
fn accepted_subscription_is_one_that_a_frame_can_hold() {
    let seeds = [
        "topic=chat/7&from=12:4051&delivery=rate:10",
        "topic=a%2Fb&from=last:3",
        "from=start&topic=a",
        "topic=a&from=01:2",
        "topic=a&token=x",
    ];
    pushonce_fuzz::check!("subscriptions", seeds.map(Into::into).to_vec(), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(pairs) = query::pairs(text) else { return };
        let Ok(Some(request)) = parse_subscription(&pairs) else { return };
        for encoding in Encoding::ALL {
            let frame = encoding.encode_request(&request);
            assert_eq!(encoding.decode_request(&frame), Ok(request.clone()));
        }
        let ClientCommand::Subscribe { topic, from, .. } = request.command else {
            panic!("{:?}", request.command)
        };
        let value = |name: &str| {
            pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(value("topic"), Some(topic.as_str()));
        if let StartFrom::Position(position) = from {
            assert_eq!(value("from").map(str::parse::<Position>), Some(Ok(position)));
            assert_eq!(value("from"), Some(position.to_string().as_str()));
        }
    });
}
