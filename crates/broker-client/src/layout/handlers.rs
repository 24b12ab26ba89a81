//! The name of a handler in its topic's account, from which its streams, consumers and subjects have theirs.

/// Between the name and the namespace of a handler. No name of Kubernetes has it, and NATS gives it no meaning.
const NAMESPACE_MARK: char = '=';

/// The name of a handler in its topic's account: its own, or, where it is of another namespace than the topic, both:
/// `billing=web`. Two handlers of a topic never share one. It is in each permission of the handler's user, whose JWT is then
/// up to 2.6 KB of the 4 KiB that a server reads as one line.
pub fn handler_name(topic_namespace: &str, namespace: &str, name: &str) -> String {
    if namespace == topic_namespace { name.to_owned() } else { format!("{name}{NAMESPACE_MARK}{namespace}") }
}

/// The namespace and the name of the handler that has this name in its topic's account.
pub fn handler_named<'a>(topic_namespace: &'a str, known_as: &'a str) -> (&'a str, &'a str) {
    known_as.split_once(NAMESPACE_MARK).map_or((topic_namespace, known_as), |(name, namespace)| (namespace, name))
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn a_handler_of_another_namespace_has_a_name_of_its_own() {
        for (namespace, known_as) in [("shop", "billing"), ("web", "billing=web")] {
            let name = handler_name("shop", namespace, "billing");
            assert_eq!(name, known_as);
            assert_eq!(handler_named("shop", &name), (namespace, "billing"));
            assert_eq!(handler_of(&lane_consumer(&name, 3)), known_as);
            assert_eq!(handler_of_dead_letters(&dead_letter_stream(&name)), Some(known_as));
        }
    }
}
