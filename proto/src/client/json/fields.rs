//! The members of a JSON object, taken one by one, so that what is left over can be named.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::client::{ErrorCode, InvalidFrame};

/// What has not been taken yet.
pub(super) struct JsonFields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> JsonFields<'a> {
    /// Reads an object; the error says why the text is none.
    pub(super) fn parse(text: &'a str) -> Result<JsonFields<'a>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The object in the field `begin_member`.
    pub(super) fn parse_nested(
        name: &str,
        value: &'a RawValue,
    ) -> Result<JsonFields<'a>, InvalidFrame> {
        let wrong =
            |_| InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` must be an object"));
        JsonFields::parse(value.get()).map_err(wrong)
    }

    /// The text of a field's value.
    pub(super) fn take_raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(index).1)
    }

    /// The text of a field that may be absent. `null` is absent: many clients write every field of
    /// their record, set or not.
    pub(super) fn take_optional(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take_raw(name).filter(|value| value.get() != "null")
    }

    /// A field that may be absent; `kind` says in the error what it must be.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
        kind: &str,
    ) -> Result<Option<T>, InvalidFrame> {
        let wrong =
            |_| InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` must be {kind}"));
        self.take_optional(name)
            .map(|raw| serde_json::from_str(raw.get()).map_err(wrong))
            .transpose()
    }

    /// A field that must be there.
    pub(super) fn take_required<T: DeserializeOwned>(
        &mut self,
        name: &str,
        kind: &str,
    ) -> Result<T, InvalidFrame> {
        let missing = || InvalidFrame::new(ErrorCode::BadRequest, format!("`{name}` is missing"));
        self.take(name, kind)?.ok_or_else(missing)
    }

    /// Removes a field that is `null`, if it is.
    pub(super) fn remove_null(&mut self, name: &str) {
        self.0.retain(|(field, value)| field != name || value.get() != "null");
    }

    /// The first field nobody took, and its value.
    pub(super) fn first_remaining(&self) -> Option<(&str, &'a RawValue)> {
        self.0.first().map(|(name, value)| (name.as_str(), *value))
    }

    /// Nothing may be left: a field that is not read would be a wish not granted.
    pub(super) fn reject_remaining(self) -> Result<(), InvalidFrame> {
        self.first_remaining().map_or(Ok(()), |(name, _)| Err(unknown_field(name)))
    }
}

/// The answer to a name that means nothing here.
pub(super) fn unknown_field(name: &str) -> InvalidFrame {
    let name: String = name.chars().take(64).collect();
    let message = format!("field {name:?} is unknown here, or there twice; remove it");
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
