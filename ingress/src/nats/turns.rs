//! Whose turn it is: the requests for a topic are taken one after the other, in the order in which they came, and no
//! topic waits for another one's.

use std::collections::HashMap;

use tidegate_broker_client::TopicId;
use tokio::sync::oneshot;

/// The end of the newest turn of each topic.
#[derive(Default)]
pub struct Turns(HashMap<TopicId, oneshot::Receiver<()>>);

/// The turn of a request. It is over when this is dropped.
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

impl Turns {
    /// The turn after all that were given for this topic before.
    pub fn next(&mut self, topic: &TopicId) -> Turn {
        let Self(newest) = self;
        let (over, end) = oneshot::channel();
        let before = if let Some(newest) = newest.get_mut(topic) {
            Some(std::mem::replace(newest, end))
        } else {
            // Topics without a request are forgotten here, so there are no more than there are requests.
            newest.retain(|_, end| !is_over(end));
            newest.insert(topic.clone(), end)
        };
        Turn { before, _over: over }
    }
}

impl Turn {
    /// Waits until the turns before it are over.
    pub async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is ever sent: the other side is dropped.
            let _ = before.await;
            self.before = None;
        }
    }
}

fn is_over(end: &mut oneshot::Receiver<()>) -> bool {
    end.try_recv() == Err(oneshot::error::TryRecvError::Closed)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_turns_of_a_topic_come_in_their_order_whatever_another_one_waits_for() {
        let topic = |name| TopicId::new("shop", name).unwrap();
        let (orders, bills) = (topic("orders"), topic("bills"));
        let mut turns = Turns::default();
        let [first, mut second, mut third] = [(); 3].map(|()| turns.next(&orders));
        let mut other = turns.next(&bills);
        let has_come = |turn: &mut Turn| turn.come().now_or_never().is_some();
        assert!(!has_come(&mut second) && !has_come(&mut third) && has_come(&mut other));
        drop(first);
        assert!(has_come(&mut second) && !has_come(&mut third));
        drop(second);
        assert!(has_come(&mut third));
        drop((third, other));
        turns.next(&topic("new"));
        assert_eq!(turns.0.len(), 1, "topics without a request are forgotten");
        assert!(has_come(&mut turns.next(&orders)), "nothing is before it");
    }
}
