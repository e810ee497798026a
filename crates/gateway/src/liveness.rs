//! How long a silent client is borne, counted in heartbeats. No clock: each beat is an input.

use crate::{IDLE_INTERVALS, STUCK_INTERVALS};

/// What is known of one session since its last beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Something was read from it.
    pub(crate) received: bool,
    /// It waits to be written to.
    pub(crate) blocked: bool,
    /// Some byte of what is written was taken.
    pub(crate) progressed: bool,
}

/// The count of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Liveness {
    silent_intervals: u8,
    stuck_intervals: u8,
}

/// What a beat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepaliveAction {
    /// Send the heartbeat.
    SendHeartbeat,
    /// Send the heartbeat, and ask whether somebody is there.
    SendHeartbeatAndPing,
    /// It takes nothing: what is sent would only pile up.
    Wait,
    /// Nobody is there.
    CloseIdle,
    /// Somebody is there and does not read.
    CloseSlow,
}

impl Liveness {
    /// One interval has passed.
    pub(crate) fn on_interval(&mut self, activity: Activity) -> KeepaliveAction {
        self.silent_intervals =
            if activity.received { 0 } else { self.silent_intervals.saturating_add(1) };
        let is_stuck = activity.blocked && !activity.progressed;
        self.stuck_intervals = if is_stuck { self.stuck_intervals.saturating_add(1) } else { 0 };
        if self.stuck_intervals >= STUCK_INTERVALS {
            KeepaliveAction::CloseSlow
        } else if self.silent_intervals >= IDLE_INTERVALS {
            KeepaliveAction::CloseIdle
        } else if activity.blocked {
            KeepaliveAction::Wait
        } else if self.silent_intervals > 0 {
            KeepaliveAction::SendHeartbeatAndPing
        } else {
            KeepaliveAction::SendHeartbeat
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVED: Activity = Activity { received: true, blocked: false, progressed: false };
    const SILENT: Activity = Activity { received: false, blocked: false, progressed: false };

    #[test]
    fn silent_client_is_pinged_before_it_is_closed_as_idle() {
        let mut liveness = Liveness::default();
        let actions =
            [RECEIVED, SILENT, SILENT, SILENT].map(|activity| liveness.on_interval(activity));
        assert_eq!(
            actions,
            [
                KeepaliveAction::SendHeartbeat,
                KeepaliveAction::SendHeartbeatAndPing,
                KeepaliveAction::SendHeartbeatAndPing,
                KeepaliveAction::CloseIdle
            ]
        );
    }

    #[test]
    fn received_bytes_reset_the_silent_interval_count() {
        let mut liveness = Liveness::default();
        let actions =
            [SILENT, SILENT, RECEIVED, SILENT].map(|activity| liveness.on_interval(activity));
        assert_eq!(
            actions,
            [
                KeepaliveAction::SendHeartbeatAndPing,
                KeepaliveAction::SendHeartbeatAndPing,
                KeepaliveAction::SendHeartbeat,
                KeepaliveAction::SendHeartbeatAndPing
            ]
        );
    }

    #[test]
    fn blocked_client_is_closed_as_slow_only_when_it_reads_nothing() {
        let stuck = Activity { received: true, blocked: true, progressed: false };
        let slow = Activity { progressed: true, ..stuck };
        let mut liveness = Liveness::default();
        let actions = [stuck, slow, stuck, stuck].map(|activity| liveness.on_interval(activity));
        assert_eq!(
            actions,
            [
                KeepaliveAction::Wait,
                KeepaliveAction::Wait,
                KeepaliveAction::Wait,
                KeepaliveAction::CloseSlow
            ]
        );
    }
}
