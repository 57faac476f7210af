//! What a target says over JSON-RPC of its cores' work: how long they were busy, and how many
//! requests they ended. mdof and SPDK answer alike.
//!
//! What counts as busy is the target's own word. mdof counts turns of the loop with work, those in
//! which it only enters the kernel among them. SPDK counts polls that found something; what such a
//! poll has queued is sent at the start of the next one, which is idle time if nothing new has
//! come by then. So SPDK's figure flatters it the more, the less it has to do.

use std::path::Path;

use mdof::control::rpc::client;
use serde_json::Value;

use crate::job::PerfError;

/// What the cores have done since the target started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    busy_s: f64,
    ios: u64,
}

impl Work {
    /// Requests a second of busy time since `before`; `None`: there was no such time.
    pub(super) fn since(&self, before: &Self) -> Option<f64> {
        let busy_s = self.busy_s - before.busy_s;
        (busy_s > 0.0).then(|| self.ios.saturating_sub(before.ios) as f64 / busy_s)
    }
}

/// Asks the target.
pub(super) fn ask(socket: &Path) -> Result<Work, PerfError> {
    let call = |method| client::call(socket, method, None).map_err(|e| PerfError(e.to_string()));
    let (reactors, stats) = (call("framework_get_reactors")?, call("nvmf_get_stats")?);
    work(&reactors, &stats).ok_or_else(|| {
        let socket = socket.display();
        PerfError(format!("the target at {socket} does not say how busy its cores were"))
    })
}

/// The sum over the cores, as the two calls tell it.
fn work(reactors: &Value, stats: &Value) -> Option<Work> {
    let sum = |list: &Value, key| list.as_array()?.iter().map(|one| one[key].as_u64()).sum();
    let tick_rate = reactors["tick_rate"].as_f64().filter(|rate| *rate > 0.0)?;
    let busy_ticks: Option<u64> = sum(&reactors["reactors"], "busy");
    let ios: Option<u64> = sum(&stats["poll_groups"], "completed_nvme_io");
    Some(Work { busy_s: busy_ticks? as f64 / tick_rate, ios: ios? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_by_busy_time_of_all_cores() {
        let said = |busy: [u64; 2], ios: [u64; 2]| {
            let reactors = busy.map(|busy| json!({ "busy": busy, "idle": 7 }));
            let groups = ios.map(|ios| json!({ "completed_nvme_io": ios }));
            let reactors = json!({ "tick_rate": 1000, "reactors": reactors });
            work(&reactors, &json!({ "tick_rate": 1000, "poll_groups": groups })).unwrap()
        };
        let before = said([1000, 500], [10, 20]);
        assert_eq!(before, Work { busy_s: 1.5, ios: 30 });
        assert_eq!(said([2000, 1500], [40, 50]).since(&before), Some(30.0));
        assert_eq!(before.since(&before), None, "nobody was busy");
    }

    #[test]
    fn a_target_that_does_not_tell() {
        let stats = json!({ "poll_groups": [{ "completed_nvme_io": 1 }] });
        for reactors in [json!({}), json!({ "tick_rate": 0, "reactors": [{ "busy": 1 }] })] {
            assert_eq!(work(&reactors, &stats), None);
        }
        let reactors = json!({ "tick_rate": 1, "reactors": [{ "busy": 1 }] });
        assert!(work(&reactors, &stats).is_some());
        assert_eq!(work(&reactors, &json!({ "poll_groups": [{}] })), None);
        let error = ask(Path::new("/nonexistent/mdof.sock")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/mdof.sock"), "{error}");
    }
}
