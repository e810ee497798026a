//! The fields of a JSON object, removed one by one, so that an error can name the fields that remain.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::client::{ErrorCode, InvalidFrame};

/// The fields of a JSON object that have not been removed yet.
pub(super) struct JsonFields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> JsonFields<'a> {
    /// Parses a JSON object; the error says why the text is not one.
    pub(super) fn parse(text: &'a str) -> Result<JsonFields<'a>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Parses the object that is the value of the field `name`.
    pub(super) fn parse_nested(
        name: &str,
        value: &'a RawValue,
    ) -> Result<JsonFields<'a>, InvalidFrame> {
        let invalid =
            |_| InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` must be an object"));
        JsonFields::parse(value.get()).map_err(invalid)
    }

    /// Removes a field and returns the text of its value.
    pub(super) fn take_raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(index).1)
    }

    /// Removes an optional field and returns the text of its value. `null` counts as absent: many clients
    /// write every field of a record, whether it is set or not.
    pub(super) fn take_optional(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take_raw(name).filter(|value| value.get() != "null")
    }

    /// Removes and decodes an optional field; the error says that the field must be `kind`.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
        kind: &str,
    ) -> Result<Option<T>, InvalidFrame> {
        let invalid =
            |_| InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` must be {kind}"));
        self.take_optional(name)
            .map(|raw| serde_json::from_str(raw.get()).map_err(invalid))
            .transpose()
    }

    /// Removes and decodes a required field; the error says that it must be `kind` or is missing.
    pub(super) fn take_required<T: DeserializeOwned>(
        &mut self,
        name: &str,
        kind: &str,
    ) -> Result<T, InvalidFrame> {
        let missing = || InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` is missing"));
        self.take(name, kind)?.ok_or_else(missing)
    }

    /// Removes a field if its value is `null`.
    pub(super) fn remove_null(&mut self, name: &str) {
        self.0.retain(|(field, value)| field != name || value.get() != "null");
    }

    /// The first remaining field and its value.
    pub(super) fn first_remaining(&self) -> Option<(&str, &'a RawValue)> {
        self.0.first().map(|(name, value)| (name.as_str(), *value))
    }

    /// Fails if a field remains: the server must not ignore a part of a request.
    pub(super) fn reject_remaining(self) -> Result<(), InvalidFrame> {
        self.first_remaining().map_or(Ok(()), |(name, _)| Err(unknown_field(name)))
    }
}

/// The error for a field that is unknown in its object or occurs twice.
pub(super) fn unknown_field(name: &str) -> InvalidFrame {
    let name: String = name.chars().take(64).collect();
    let message = format!("field {name:?} is unknown or occurs twice; remove it");
    InvalidFrame::new(ErrorCode::UnknownField, message)
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonFields<'a>, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(FieldsVisitor).map(JsonFields)
    }
}
