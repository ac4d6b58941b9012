use std::time::Duration;

use tokio::sync::broadcast;

use super::*;
use crate::control::{ReceivedRequest, Reply};
use crate::plan::Seat;
use crate::protocol::Request;

const GENERATION: Generation = Generation(2);

fn respawn(seat: u16) -> Event {
    Event::Respawn { seat: Seat(seat), delay: Duration::from_millis(1500) }
}

async fn next(replies: &mut crate::control::ReplyReceiver) -> EventRecord {
    match replies.step().await {
        Some(Reply::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_slow_subscriber_holds_nobody_up_and_is_told_how_much_it_missed() {
    let events = broadcast::channel(16).0;
    let (slow, mut replies) = ReceivedRequest::new(Request::Events);
    let subscribers = Subscribers::default();
    subscribers.add(&"web".parse().unwrap(), GENERATION, &events, slow.responder);
    let first = next(&mut replies).await;
    assert_eq!((first.event.as_str(), &first.fields["name"]), ("subscribed", &"web".into()));
    assert!(first.time > 1.7e9);
    // Far more than any queue holds, without a wait: nobody reads.
    for seat in 0..1000 {
        assert_eq!(events.send(respawn(seat)).unwrap(), 1);
        tokio::task::yield_now().await;
    }
    drop(events);
    let (mut told, mut missed) = (Vec::new(), 0);
    while let Some(Reply::Event(event)) = replies.step().await {
        match event.event.as_str() {
            "missed" => missed += event.fields["count"].as_u64().unwrap(),
            _ => told.push(event.fields["seat"].as_u64().unwrap()),
        }
    }
    assert!(missed > 0 && told.is_sorted());
    assert_eq!(told.len() as u64 + missed, 1000, "each is told or counted");
    assert_eq!(replies.outcome().await, Some(Ok(Outcome::EventsOver)));
}

#[tokio::test]
async fn some_connections_are_left_for_commands() {
    let events = broadcast::channel(16).0;
    let subscribers = Subscribers::default();
    let name: ClusterName = "web".parse().unwrap();
    let subscribe = || {
        let (request, replies) = ReceivedRequest::new(Request::Events);
        subscribers.add(&name, GENERATION, &events, request.responder);
        replies
    };
    let mut listening: Vec<_> = (0..SUBSCRIBERS).map(|_| subscribe()).collect();
    let refused = subscribe().outcome().await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "too many event subscribers: the limit is 16");
    // One that goes away makes room, as soon as there is something to tell it.
    drop(listening.pop());
    for attempt in 0.. {
        assert!(attempt < 1000, "no room");
        let _ = events.send(respawn(0));
        tokio::task::yield_now().await;
        let mut another = subscribe();
        if another.step().await.is_some() {
            break;
        }
    }
}
