//! The control stream of the client: its SETTINGS, and nothing else that matters here.

use bytes::Buf as _;
use web_transport_proto::{Setting, VarInt};

use crate::element::{Element, ElementReader, Treatment};
use crate::error::ConnectionError;

/// The longest SETTINGS frame that is accepted. Browsers send some forty bytes.
pub const SETTINGS_BYTES_MAX: usize = 1 << 10;

pub(crate) const FRAME_DATA: u64 = 0x0;
pub(crate) const FRAME_HEADERS: u64 = 0x1;
pub(crate) const FRAME_SETTINGS: u64 = 0x4;
const FRAME_PUSH_PROMISE: u64 = 0x5;
pub(crate) const FRAME_CANCEL_PUSH: u64 = 0x3;
pub(crate) const FRAME_GOAWAY: u64 = 0x7;
pub(crate) const FRAME_MAX_PUSH_ID: u64 = 0xd;

/// Frame types of HTTP/2 without a meaning in HTTP/3 (RFC 9114, 7.2.8), and a frame that only servers send.
pub(crate) fn is_forbidden(kind: u64) -> bool {
    matches!(kind, 0x2 | 0x6 | 0x8 | 0x9 | FRAME_PUSH_PROMISE)
}

/// Settings of HTTP/2 without a meaning in HTTP/3 (RFC 9114, 7.2.4.1).
fn is_reserved_setting(id: u64) -> bool {
    matches!(id, 0x2..=0x5)
}

#[derive(Debug, Default)]
pub(crate) struct ControlStream {
    reader: ElementReader,
    settings: Option<ClientSettings>,
}

/// What the SETTINGS of a client say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    /// Whether the client accepts HTTP/3 datagrams.
    pub(crate) has_datagrams: bool,
}

impl ControlStream {
    /// Reads bytes. Returns the SETTINGS, once they are known, and how many bytes were ignored.
    pub(crate) fn on_bytes(
        &mut self,
        mut input: &[u8],
    ) -> Result<(Option<ClientSettings>, usize), ConnectionError> {
        let mut ignored = 0;
        loop {
            let is_first = self.settings.is_none();
            let treatment = |kind| treat(kind, is_first);
            let read = self.reader.next(&mut input, treatment).map_err(|error| match error {
                ConnectionError::FrameUnexpected { .. } if is_first => {
                    ConnectionError::MissingSettings
                }
                error => error,
            })?;
            match read {
                None => return Ok((self.settings, ignored)),
                Some(Element::Complete { content, .. }) => {
                    self.settings = Some(decode_settings(&content)?);
                }
                Some(Element::Skipped(bytes)) => ignored += bytes,
                Some(Element::Piece(_)) => {}
            }
        }
    }
}

fn treat(kind: u64, is_first: bool) -> Treatment {
    match (kind, is_first) {
        (FRAME_SETTINGS, true) => Treatment::Collect(SETTINGS_BYTES_MAX),
        // Also a frame of an unknown type must not precede SETTINGS (RFC 9114, 6.2.1).
        (_, true) | (FRAME_DATA | FRAME_HEADERS | FRAME_SETTINGS, false) => Treatment::Refuse,
        (kind, false) if is_forbidden(kind) => Treatment::Refuse,
        // GOAWAY, MAX_PUSH_ID and CANCEL_PUSH concern pushes, of which there are none.
        _ => Treatment::Skip,
    }
}

/// Decodes the content of SETTINGS. Whether the client knows WebTransport is not read from it: each draft has another
/// setting, and the request says it.
fn decode_settings(mut content: &[u8]) -> Result<ClientSettings, ConnectionError> {
    let mut seen = Vec::new();
    let mut has_datagrams = false;
    while content.has_remaining() {
        let id = VarInt::decode(&mut content).map_err(|_| ConnectionError::Frame)?;
        let value = VarInt::decode(&mut content).map_err(|_| ConnectionError::Frame)?;
        let setting = Setting(id);
        if is_reserved_setting(id.into_inner()) || seen.contains(&id) {
            return Err(ConnectionError::Settings);
        }
        seen.push(id);
        has_datagrams |=
            matches!(setting, Setting::ENABLE_DATAGRAM | Setting::ENABLE_DATAGRAM_DEPRECATED)
                && value == VarInt::from_u32(1);
    }
    Ok(ClientSettings { has_datagrams })
}

#[cfg(test)]
mod tests {
    use web_transport_proto::Settings;

    use super::*;

    /// A control stream without its type, as `web-transport-proto` makes it for a client.
    fn settings(change: impl FnOnce(&mut Settings)) -> Vec<u8> {
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        change(&mut settings);
        let mut bytes = Vec::new();
        settings.encode(&mut bytes);
        bytes.split_off(1)
    }

    #[test]
    fn settings_come_first_and_once() {
        let valid = settings(|_| {});
        let mut stream = ControlStream::default();
        let known = Some(ClientSettings { has_datagrams: true });
        assert_eq!(stream.on_bytes(&valid), Ok((known, 0)));
        assert_eq!(stream.on_bytes(&[0x07, 1, 0]), Ok((known, 3)));
        assert_eq!(stream.on_bytes(&valid), Err(ConnectionError::FrameUnexpected { kind: 4 }));
        for first in [&[0x07, 1, 0][..], &[0x21, 0], &[0x00, 0]] {
            let result = ControlStream::default().on_bytes(first);
            assert_eq!(result, Err(ConnectionError::MissingSettings), "{first:?}");
        }
    }

    #[test]
    fn client_accepts_datagrams_only_if_its_settings_say_so() {
        let without_datagrams = settings(|settings| {
            settings.remove(&Setting::ENABLE_DATAGRAM);
            settings.remove(&Setting::ENABLE_DATAGRAM_DEPRECATED);
        });
        let known = Some(ClientSettings { has_datagrams: false });
        assert_eq!(ControlStream::default().on_bytes(&without_datagrams), Ok((known, 0)));
    }

    #[test]
    fn reserved_repeated_or_truncated_settings_are_errors() {
        let reserved = settings(|settings| {
            settings.insert(Setting(VarInt::from_u32(0x3)), VarInt::from_u32(1));
        });
        for (bytes, error) in [
            (&reserved[..], ConnectionError::Settings),
            (&[0x04, 4, 0x33, 1, 0x33, 1], ConnectionError::Settings),
            (&[0x04, 1, 0x33], ConnectionError::Frame),
            (&[0x04, 0x44, 0x01], ConnectionError::ExcessiveLoad),
        ] {
            assert_eq!(ControlStream::default().on_bytes(bytes), Err(error), "{bytes:?}");
        }
    }
}
