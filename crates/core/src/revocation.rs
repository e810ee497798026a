//! Tokens that are no longer accepted before they expire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The tokens that the cluster no longer accepts. Every node compares each token with this list when it
/// authenticates a caller, and the token of each session when the list changes.
///
/// An entry is kept until the last token that it concerns has expired; the caller says until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    token_ids: BTreeMap<String, Timestamp>,
    subjects: BTreeMap<String, IssuedBefore>,
    everyone: Option<IssuedBefore>,
}

/// The tokens that one revocation concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RevokedTokens {
    /// The token with this id (claim `jti`).
    WithId(String),
    /// The tokens of this subject (claim `sub`) that were issued before a time (claim `iat`), or all of them.
    OfSubject {
        /// The subject.
        subject: String,
        /// The time; `None` for all tokens, also future ones.
        issued_before: Option<Timestamp>,
    },
    /// Every token that was issued before a time.
    IssuedBefore(Timestamp),
}

/// The claims of a token that revocations refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenFacts<'a> {
    /// The claim `jti`.
    pub token_id: Option<&'a str>,
    /// The claim `sub`.
    pub subject: Option<&'a str>,
    /// The claim `iat`.
    pub issued_at: Option<Timestamp>,
}

/// Why tokens cannot be revoked. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidRevocation {
    /// The token id or the subject is empty or longer than [`Revocations::NAME_BYTES_MAX`].
    #[error("a token id or subject must have 1 to {max} bytes, not {len}", max = Revocations::NAME_BYTES_MAX)]
    Name {
        /// Length in bytes.
        len: usize,
    },
    /// There are [`Revocations::MAX`] entries already.
    #[error(
        "the cluster already keeps {max} revocations; revoke all tokens that were issued before a time, \
         or wait until some expire",
        max = Revocations::MAX
    )]
    Full,
}

/// Which tokens of a subject, or of everyone, are revoked, and until when that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IssuedBefore {
    /// `None` for all tokens.
    issued_before: Option<Timestamp>,
    kept_until: Timestamp,
}

impl Revocations {
    /// Maximum number of entries: with ids of the maximum length 3 MiB in the state of every node. An
    /// operator who needs more revokes everything that was issued before a time.
    pub const MAX: usize = 10_000;
    /// Maximum length of a token id or a subject, in bytes.
    pub const NAME_BYTES_MAX: usize = 255;

    /// Revokes `tokens` and keeps the entry until `kept_until`. Repeating a revocation extends it; it never
    /// accepts a token again that was revoked before.
    ///
    /// # Errors
    /// [`InvalidRevocation`], without a change.
    pub fn revoke(
        &mut self,
        tokens: RevokedTokens,
        kept_until: Timestamp,
    ) -> Result<(), InvalidRevocation> {
        let is_full = self.len() >= Self::MAX;
        match tokens {
            RevokedTokens::WithId(id) => {
                validate_name(&id)?;
                if is_full && !self.token_ids.contains_key(&id) {
                    return Err(InvalidRevocation::Full);
                }
                let until = self.token_ids.entry(id).or_default();
                *until = kept_until.max(*until);
            }
            RevokedTokens::OfSubject { subject, issued_before } => {
                validate_name(&subject)?;
                let present = self.subjects.get(&subject).copied();
                if is_full && present.is_none() {
                    return Err(InvalidRevocation::Full);
                }
                let entry = IssuedBefore { issued_before, kept_until };
                self.subjects.insert(subject, entry.merge(present));
            }
            // One entry, beside the limit: the way out when the list is full.
            RevokedTokens::IssuedBefore(time) => {
                let entry = IssuedBefore { issued_before: Some(time), kept_until };
                self.everyone = Some(entry.merge(self.everyone));
            }
        }
        Ok(())
    }

    /// Whether a token is revoked. A token that does not say when it was issued counts as issued before any
    /// time.
    pub fn is_revoked(&self, token: &TokenFacts<'_>) -> bool {
        let by_id = token.token_id.is_some_and(|id| self.token_ids.contains_key(id));
        let by_subject = || token.subject.and_then(|subject| self.subjects.get(subject));
        by_id || by_subject().into_iter().chain(&self.everyone).any(|entry| entry.concerns(token))
    }

    /// Removes the entries that need not be kept any longer at `now`. Whether there were any.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let before = (self.len(), self.everyone);
        self.token_ids.retain(|_, kept_until| *kept_until > now);
        self.subjects.retain(|_, entry| entry.kept_until > now);
        self.everyone = self.everyone.filter(|entry| entry.kept_until > now);
        before != (self.len(), self.everyone)
    }

    /// Every entry with the time until which it is kept: token ids, subjects, everyone.
    pub fn iter(&self) -> impl Iterator<Item = (RevokedTokens, Timestamp)> + '_ {
        let ids =
            self.token_ids.iter().map(|(id, until)| (RevokedTokens::WithId(id.clone()), *until));
        let subjects = self.subjects.iter().map(|(subject, entry)| {
            let issued_before = entry.issued_before;
            let subject = subject.clone();
            (RevokedTokens::OfSubject { subject, issued_before }, entry.kept_until)
        });
        let everyone = self.everyone.iter().filter_map(|entry| {
            let issued_before = entry.issued_before?;
            Some((RevokedTokens::IssuedBefore(issued_before), entry.kept_until))
        });
        ids.chain(subjects).chain(everyone)
    }

    /// Number of token ids and subjects in the list.
    pub fn len(&self) -> usize {
        self.token_ids.len() + self.subjects.len()
    }

    /// Whether no token is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.everyone.is_none()
    }
}

impl IssuedBefore {
    fn concerns(&self, token: &TokenFacts<'_>) -> bool {
        match (self.issued_before, token.issued_at) {
            (Some(before), Some(issued_at)) => issued_at < before,
            (None, _) | (_, None) => true,
        }
    }

    /// Both revocations in one.
    fn merge(self, present: Option<IssuedBefore>) -> IssuedBefore {
        let Some(present) = present else { return self };
        let issued_before = match (self.issued_before, present.issued_before) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (None, _) | (_, None) => None,
        };
        IssuedBefore { issued_before, kept_until: self.kept_until.max(present.kept_until) }
    }
}

fn validate_name(name: &str) -> Result<(), InvalidRevocation> {
    match name.len() {
        1..=Revocations::NAME_BYTES_MAX => Ok(()),
        len => Err(InvalidRevocation::Name { len }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Timestamp = Timestamp(1_000);

    fn id(id: &str) -> RevokedTokens {
        RevokedTokens::WithId(id.to_owned())
    }

    fn of_subject(subject: &str, issued_before: Option<u64>) -> RevokedTokens {
        let issued_before = issued_before.map(Timestamp);
        RevokedTokens::OfSubject { subject: subject.to_owned(), issued_before }
    }

    fn revoked(entries: impl IntoIterator<Item = RevokedTokens>) -> Revocations {
        let mut revocations = Revocations::default();
        for tokens in entries {
            revocations.revoke(tokens, LATER).expect("valid");
        }
        revocations
    }

    fn token<'a>(token_id: &'a str, subject: &'a str, issued_at: u64) -> TokenFacts<'a> {
        let issued_at = Some(Timestamp(issued_at));
        TokenFacts { token_id: Some(token_id), subject: Some(subject), issued_at }
    }

    #[test]
    fn token_is_revoked_by_id_by_subject_and_by_time() {
        let by_id = revoked([id("t1")]);
        assert!(by_id.is_revoked(&token("t1", "alice", 5)));
        assert!(!by_id.is_revoked(&token("t2", "t1", 5)));
        let by_subject = revoked([of_subject("alice", None), of_subject("bob", Some(10))]);
        assert!(by_subject.is_revoked(&token("t1", "alice", u64::MAX)));
        assert!(by_subject.is_revoked(&token("t1", "bob", 9)));
        assert!(!by_subject.is_revoked(&token("t1", "bob", 10)));
        assert!(!by_subject.is_revoked(&token("alice", "carol", 5)));
        let by_time = revoked([RevokedTokens::IssuedBefore(Timestamp(10))]);
        assert!(by_time.is_revoked(&token("t1", "alice", 9)));
        assert!(!by_time.is_revoked(&token("t1", "alice", 10)));
        assert!(!Revocations::default().is_revoked(&TokenFacts::default()));
    }

    #[test]
    fn token_without_issue_time_counts_as_issued_before_any_time() {
        let revocations = revoked([RevokedTokens::IssuedBefore(Timestamp(10))]);
        assert!(revocations.is_revoked(&TokenFacts::default()));
    }

    #[test]
    fn repeated_revocation_never_accepts_a_revoked_token_again() {
        let mut revocations =
            revoked([of_subject("alice", Some(10)), of_subject("alice", Some(5))]);
        assert!(revocations.is_revoked(&token("t", "alice", 9)));
        revocations.revoke(of_subject("alice", None), Timestamp(1)).expect("valid");
        revocations.revoke(of_subject("alice", Some(7)), Timestamp(1)).expect("valid");
        assert!(revocations.is_revoked(&token("t", "alice", 20)));
        assert!(!revocations.expire(Timestamp(999)), "the longest time is kept");
    }

    #[test]
    fn entries_expire_when_they_need_not_be_kept() {
        let mut revocations = revoked([id("t1"), of_subject("alice", None)]);
        revocations.revoke(id("t2"), Timestamp(2_000)).expect("valid");
        revocations.revoke(RevokedTokens::IssuedBefore(Timestamp(1)), LATER).expect("valid");
        assert!(!revocations.expire(Timestamp(999)));
        assert!(revocations.expire(LATER));
        assert_eq!(revocations.iter().collect::<Vec<_>>(), [(id("t2"), Timestamp(2_000))]);
        assert!(revocations.expire(Timestamp(2_000)));
        assert!(revocations.is_empty());
    }

    #[test]
    fn full_list_rejects_new_names_but_still_revokes_by_time() {
        let mut revocations = revoked((0..Revocations::MAX).map(|number| id(&number.to_string())));
        assert_eq!(revocations.revoke(id("new"), LATER), Err(InvalidRevocation::Full));
        let subject = of_subject("alice", None);
        assert_eq!(revocations.revoke(subject, LATER), Err(InvalidRevocation::Full));
        assert_eq!(revocations.revoke(id("7"), Timestamp(2_000)), Ok(()));
        let all = RevokedTokens::IssuedBefore(Timestamp(10));
        assert_eq!(revocations.revoke(all, LATER), Ok(()));
        assert_eq!(revocations.len(), Revocations::MAX);
    }

    #[test]
    fn empty_and_long_names_are_rejected() {
        let mut revocations = Revocations::default();
        let long = "x".repeat(Revocations::NAME_BYTES_MAX + 1);
        for name in ["", &long] {
            let invalid = Err(InvalidRevocation::Name { len: name.len() });
            assert_eq!(revocations.revoke(id(name), LATER), invalid);
            assert_eq!(revocations.revoke(of_subject(name, None), LATER), invalid);
        }
        assert!(revocations.is_empty());
    }
}
