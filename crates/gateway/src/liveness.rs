//! Detection of idle and stuck clients, counted in heartbeat intervals. Pure: each interval is an input.

use crate::{IDLE_INTERVALS, STUCK_INTERVALS};

/// The activity of one session since the previous interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Data was received from the client.
    pub(crate) received: bool,
    /// Data waits to be written.
    pub(crate) blocked: bool,
    /// At least one byte was written.
    pub(crate) progressed: bool,
}

/// The interval counts of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Liveness {
    silent_intervals: u8,
    stuck_intervals: u8,
}

/// The action to perform at an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepaliveAction {
    /// Send the heartbeat.
    SendHeartbeat,
    /// Send the heartbeat and a ping.
    SendHeartbeatAndPing,
    /// Send nothing: the session is blocked, and more frames would only pile up.
    Wait,
    /// Close the session: the client is silent.
    CloseIdle,
    /// Close the session: the client does not read.
    CloseSlow,
}

impl Liveness {
    /// Evaluates one interval.
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
