//! Lets a test follow a handover step by step.

use std::fmt;
use std::sync::Arc;

/// Tells a test which step of a handover is reached, for it to end or stop this process there. Does
/// nothing by default.
#[derive(Clone, Default)]
pub(in crate::master) struct StepObserver(Option<Observer>);

type Observer = Arc<dyn Fn(&str) + Send + Sync>;

impl StepObserver {
    pub(in crate::master) fn new(observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(in crate::master) fn reach(&self, step: &str) {
        if let Self(Some(observer)) = self {
            observer(step);
        }
    }
}

impl fmt::Debug for StepObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepObserver").field(&self.0.is_some()).finish()
    }
}
