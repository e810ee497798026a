//! Conversion of a payload to and from the field `data` of a JSON object.
//!
//! JSON is copied as it was published, text becomes a string, and everything else becomes base64. The
//! content type is written only if `data` does not imply it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pushonce_core::{ContentType, Publish};
use serde_json::value::RawValue;

use super::fields::JsonFields;
use super::write::JsonFrameWriter;
use crate::client::{ErrorCode, InvalidFrame};

/// Writes a payload that was validated when it was published.
pub(super) fn write(object: &mut JsonFrameWriter, content_type: &ContentType, payload: &[u8]) {
    match (content_type, std::str::from_utf8(payload)) {
        (ContentType::Json, Ok(text)) => {
            // Without a content type, a string is decoded as text.
            if text.trim_start().starts_with('"') {
                object.string("content_type", content_type.as_str());
            }
            object.raw("data", text);
        }
        (ContentType::Text, Ok(text)) => object.string("data", text),
        (ContentType::Binary, _) => base64(object, payload),
        _ => {
            object.string("content_type", content_type.as_str());
            base64(object, payload);
        }
    }
}

/// Writes a payload that was not validated. An invalid payload is written as base64: the frame stays valid,
/// and the server rejects the publish.
pub(super) fn write_unchecked(object: &mut JsonFrameWriter, publish: &Publish) {
    if publish.validate(Publish::PAYLOAD_BYTES_CAP).is_ok() {
        write(object, &publish.content_type, &publish.payload);
    } else {
        object.string("content_type", publish.content_type.as_str());
        base64(object, &publish.payload);
    }
}

fn base64(object: &mut JsonFrameWriter, payload: &[u8]) {
    object.string("encoding", "base64");
    object.string("data", &STANDARD.encode(payload));
}

/// Removes `data`, `encoding` and `content_type` from the object and decodes the payload.
pub(super) fn read(fields: &mut JsonFields<'_>) -> Result<(ContentType, Bytes), InvalidFrame> {
    let invalid = |message: &str| InvalidFrame::new(ErrorCode::BadRequest, message);
    let data = fields.take_raw("data").ok_or_else(|| invalid("`data` is missing"))?;
    let content_type: Option<String> = fields.take("content_type", "a string")?;
    let content_type = content_type.map(|text| ContentType::parse(&text)).transpose();
    let content_type =
        content_type.map_err(|error| InvalidFrame::new(ErrorCode::BadRequest, error))?;
    match fields.take::<String>("encoding", "a string")?.as_deref() {
        None => decode_plain(data, content_type),
        Some("base64") => {
            let payload =
                STANDARD.decode(text(data)?).map_err(|_| invalid("`data` is not base64"))?;
            Ok((content_type.unwrap_or(ContentType::Binary), payload.into()))
        }
        Some(_) => Err(invalid("`encoding` must be \"base64\" or absent")),
    }
}

/// Removes `delta` from the object, if it is there in place of `data`, and decodes it.
pub(super) fn read_delta(fields: &mut JsonFields<'_>) -> Result<Option<Bytes>, InvalidFrame> {
    let Some(delta) = fields.take::<String>("delta", "a string")? else { return Ok(None) };
    match STANDARD.decode(delta) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(_) => Err(InvalidFrame::new(ErrorCode::BadRequest, "`delta` is not base64")),
    }
}

fn decode_plain(
    data: &RawValue,
    content_type: Option<ContentType>,
) -> Result<(ContentType, Bytes), InvalidFrame> {
    let is_string = data.get().starts_with('"');
    match content_type {
        Some(ContentType::Json) => Ok((ContentType::Json, copy(data))),
        None if !is_string => Ok((ContentType::Json, copy(data))),
        content_type => Ok((content_type.unwrap_or(ContentType::Text), text(data)?.into())),
    }
}

/// Copies a payload: it may be kept for long and must not retain the buffer that it arrived in.
fn copy(data: &RawValue) -> Bytes {
    Bytes::copy_from_slice(data.get().as_bytes())
}

fn text(data: &RawValue) -> Result<String, InvalidFrame> {
    let message = "`data` must be a string for this content type";
    serde_json::from_str(data.get()).map_err(|_| InvalidFrame::new(ErrorCode::BadRequest, message))
}
