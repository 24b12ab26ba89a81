//! Errors by what follows from them.

use tidegate_broker_admin::AuthorityError;
use tidegate_broker_admin::api::ApiError;
use tidegate_broker_admin::consumers::ConsumersFailure;
use tidegate_broker_admin::handler_streams::HandlerStreamsError;
use tidegate_broker_admin::push::PushError;
use tidegate_broker_admin::relocation::ShelfError;
use tidegate_broker_admin::server::MAX_CONSUMERS;
use tidegate_broker_admin::stream::StreamError;

/// Why a reconcile did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked: try again.
    #[error("Kubernetes: {}", short(.0))]
    Kubernetes(#[from] kube::Error),
    /// The broker did not do what was asked: try again.
    #[error("broker: {0}")]
    Broker(String),
    /// A child of an earlier resource of the same name is still there: the garbage collector takes it soon.
    #[error("{0}")]
    Leftover(String),
    /// What was decided by looking at a child is not written: somebody has changed or replaced it since. Look again at once.
    #[error("{0}")]
    Overtaken(String),
    /// It took too long as a whole: try again.
    #[error("not done within {} s", .0.as_secs())]
    TimedOut(std::time::Duration),
    /// A mistake of the operator's own, which must not be another resource's: try again, and tell its makers.
    #[error("a mistake in the operator, which is worth a report: {0}")]
    Panicked(String),
    /// Nothing will change until a person does something.
    #[error("{message}")]
    Refused {
        /// CamelCase: condition reason, Event reason and metric label.
        reason: &'static str,
        /// What to do instead.
        message: String,
    },
}

impl Error {
    /// Nothing will change until a person does something.
    pub fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into() }
    }

    /// The condition's and Event's reason and the metric's label: from a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "KubernetesError",
            Self::Broker(_) => "BrokerError",
            Self::Leftover(_) => "WaitingForGarbageCollection",
            Self::Overtaken(_) => "ChangedMeanwhile",
            Self::TimedOut(_) => "TimedOut",
            Self::Panicked(_) => "InternalError",
            Self::Refused { reason, .. } => reason,
        }
    }

    /// The same for another whose work was part of what failed.
    pub(crate) fn of_another(&self) -> Self {
        match self {
            Self::Kubernetes(error) => Self::Kubernetes(kube::Error::Service(short(error).into())),
            Self::Broker(message) => Self::Broker(message.clone()),
            Self::Leftover(message) => Self::Leftover(message.clone()),
            Self::Overtaken(message) => Self::Overtaken(message.clone()),
            Self::TimedOut(limit) => Self::TimedOut(*limit),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Refused { reason, message } => Self::Refused { reason, message: message.clone() },
        }
    }

    /// Does a person have to do something?
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// The API server's own sentence, without the structure around it.
pub(crate) fn short(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        Self::Broker(error.to_string())
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::Broker(error.to_string())
    }
}

impl From<ShelfError> for Error {
    fn from(error: ShelfError) -> Self {
        Self::Broker(error.to_string())
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        Self::Broker(error.to_string())
    }
}

impl From<HandlerStreamsError> for Error {
    fn from(error: HandlerStreamsError) -> Self {
        match error {
            HandlerStreamsError::NoShare(_) => Self::refused(
                "NoRoomForDeadLetters",
                format!(
                    "{error}: delete a handler, redrive what a deleted one left (a handler of its name gets it), make maxEventSize of the topic smaller, or make retention.maxSize of the topic larger: a quarter of it is what its handlers set aside"
                ),
            ),
            HandlerStreamsError::Streams(_) | HandlerStreamsError::NoBudget | HandlerStreamsError::NotThere => {
                Self::Broker(error.to_string())
            }
        }
    }
}

impl From<ConsumersFailure> for Error {
    fn from(error: ConsumersFailure) -> Self {
        match error {
            ConsumersFailure::Refused { .. } => {
                Self::refused("SubscriptionRefused", format!("{error}: change filter or delivery of this handler"))
            }
            ConsumersFailure::Full { .. } => Self::refused(
                "BrokerFull",
                format!(
                    "{error}. A topic has at most {MAX_CONSUMERS} consumers, one for each handler and each lane: delete handlers that are not needed, or give those with order: Key fewer lanes"
                ),
            ),
            _ => Self::Broker(error.to_string()),
        }
    }
}

impl From<AuthorityError> for Error {
    fn from(error: AuthorityError) -> Self {
        Self::refused(
            "AuthorityDamaged",
            format!(
                "{error}: restore Secret broker.<namespace>.<broker> of the operator's namespace from a backup, or delete it and the broker's volumes"
            ),
        )
    }
}
