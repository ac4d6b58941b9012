//! How the values of a plan stand in JSON: numbers as numbers, the rest as their text.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use super::fleet::{MacAddress, MemberName};
use super::{ClusterName, Engine, Listener, Share};

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(ClusterName, Engine, Listener, MacAddress, MemberName, Share);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::super::{Generation, Port, Seat, Slot};
    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(serde_json::from_str::<T>(json).unwrap(), *value);
    }

    #[test]
    fn ids_are_numbers_and_the_rest_is_text() {
        let ids = (Seat(3), Slot(70_000), Generation(u64::MAX), port(80));
        check(&ids, "[3,70000,18446744073709551615,80]");
        check(&"web".parse::<ClusterName>().unwrap(), r#""web""#);
        check(&"[::]:443".parse::<Listener>().unwrap(), r#""[::]:443/tcp""#);
        check(&"0.5%".parse::<Share>().unwrap(), r#""0.5%""#);
        check(&Engine::Tproxy, r#""tproxy""#);
        let ports = BTreeMap::from([(port(80), port(20_000)), (port(443), port(20_001))]);
        check(&ports, r#"{"80":20000,"443":20001}"#);
    }

    #[test]
    fn what_is_no_such_value_is_refused() {
        assert!(serde_json::from_str::<Port>("0").is_err());
        assert!(serde_json::from_str::<Port>("65536").is_err());
        assert!(serde_json::from_str::<BTreeMap<Port, Port>>(r#"{"0":1}"#).is_err());
        assert!(serde_json::from_str::<ClusterName>(r#""""#).is_err());
        assert!(serde_json::from_str::<Listener>(r#""224.0.0.1:80""#).is_err());
        assert!(serde_json::from_str::<Share>(r#""100%""#).is_err());
    }
}
