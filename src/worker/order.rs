use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

/// What a master tells its worker to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Finish the connections that you have: all that were sent here have been accepted, and no new
    /// ones come. May be said again after a master has started anew. Go on listening all the same: a
    /// rollback can make this worker serve again, of which it is not told.
    Retire,
    /// End now. A signal follows if it takes longer than `timeouts.die`.
    Die,
}

/// How often each order was given.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    pub(super) retire: u32,
    pub(super) die: u32,
}

impl Orders {
    pub(super) fn add(&mut self, order: Order) {
        let count = match order {
            Order::Retire => &mut self.retire,
            Order::Die => &mut self.die,
        };
        *count = count.saturating_add(1);
    }

    /// The first order that is in `given`, and not taken yet.
    pub(super) fn take(&mut self, given: Self) -> Option<Order> {
        if self.retire < given.retire {
            self.retire = given.retire;
            return Some(Order::Retire);
        }
        if self.die < given.die {
            self.die = given.die;
            return Some(Order::Die);
        }
        None
    }

    /// Whether a worker that was given these orders is to do what `order` says.
    fn cover(self, order: Order) -> bool {
        match order {
            // Who is to end gets no new connections either.
            Order::Retire => self.retire > 0 || self.die > 0,
            Order::Die => self.die > 0,
        }
    }
}

/// A future that completes when the master has given an order: [`Link::retired`](super::Link::retired)
/// and [`Link::shutdown`](super::Link::shutdown).
///
/// Clones are futures of their own, so that each connection can have one. Never completes once the
/// [`Link`](super::Link) is gone.
pub struct OrderSignal {
    order: Order,
    given: watch::Receiver<Orders>,
    waiting: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl OrderSignal {
    pub(super) fn new(order: Order, given: watch::Receiver<Orders>) -> Self {
        let mut watched = given.clone();
        let waiting = Box::pin(async move {
            if watched.wait_for(|given| given.cover(order)).await.is_err() {
                std::future::pending().await
            }
        });
        Self { order, given, waiting }
    }

    /// Whether the order has been given: to answer with `Connection: close`, for example.
    pub fn is_given(&self) -> bool {
        self.given.borrow().cover(self.order)
    }
}

impl Future for OrderSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_given() {
            return Poll::Ready(());
        }
        self.waiting.as_mut().poll(context)
    }
}

impl Clone for OrderSignal {
    fn clone(&self) -> Self {
        Self::new(self.order, self.given.clone())
    }
}

impl fmt::Debug for OrderSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (order, is_given) = (self.order, self.is_given());
        f.debug_struct("OrderSignal").field("order", &order).field("is_given", &is_given).finish()
    }
}
