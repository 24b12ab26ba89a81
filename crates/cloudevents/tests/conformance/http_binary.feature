# The HTTP protocol binding 1.0.2, section 3.1: attributes in headers, data in the body.

Feature: HTTP binary content mode

  Scenario: an event with data in JSON
    Given an HTTP request
      """
      POST /events HTTP/1.1
      Host: orders.example.com
      CE-SpecVersion: 1.0
      Ce-Type: com.example.order.created
      ce-source: /shops/7
      ce-id: A234-1234-1234
      ce-time: 2026-01-31T17:31:00Z
      ce-tenant: north
      Content-Type: application/json; charset=utf-8

      {"amount": 1.10}
      """
    Then the mode is binary
    And the attributes are
      | specversion     | 1.0                             |
      | type            | com.example.order.created       |
      | source          | /shops/7                        |
      | id              | A234-1234-1234                  |
      | time            | 2026-01-31T17:31:00Z            |
      | tenant          | north                           |
      | datacontenttype | application/json; charset=utf-8 |
    And the data is
      """
      {"amount": 1.10}
      """

  Scenario: values outside of printable ASCII are percent-encoded (section 3.1.3.2)
    Given an HTTP request
      """
      POST / HTTP/1.1
      Host: example.com
      ce-specversion: 1.0
      ce-type: t
      ce-source: /s
      ce-id: Euro%20%E2%82%AC%20%f0%9f%98%80
      ce-subject: 50%25%20%22off%22

      """
    Then the attributes are
      | specversion | 1.0        |
      | type        | t          |
      | source      | /s         |
      | id          | Euro € 😀  |
      | subject     | 50% "off"  |
    And there is no data

  Scenario: an event without any body or content type
    Given an HTTP request
      """
      POST / HTTP/1.1
      ce-specversion: 1.0
      ce-type: t
      ce-source: urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66
      ce-id: 1

      """
    Then the mode is binary
    And there is no data

  Scenario: text
    Given an HTTP request
      """
      POST / HTTP/1.1
      ce-specversion: 1.0
      ce-type: t
      ce-source: /s
      ce-id: 1
      content-type: application/xml

      <größe unit="m">23</größe>
      """
    Then the data is
      """
      <größe unit="m">23</größe>
      """

  Scenario: a required attribute is missing
    Given an HTTP request
      """
      POST / HTTP/1.1
      ce-specversion: 1.0
      ce-type: t
      ce-id: 1

      """
    Then it is refused with "source" is missing

  Scenario: another version
    Given an HTTP request
      """
      POST / HTTP/1.1
      ce-specversion: 0.3
      ce-type: t
      ce-source: /s
      ce-id: 1

      """
    Then it is refused with must be "1.0"

  Scenario: a time that is none (RFC 3339, section 5.6)
    Given an HTTP request
      """
      POST / HTTP/1.1
      ce-specversion: 1.0
      ce-type: t
      ce-source: /s
      ce-id: 1
      ce-time: 2018-04-05T17:31:00+25:00

      """
    Then it is refused with RFC 3339

  Scenario: a request that is no event
    Given an HTTP request
      """
      POST / HTTP/1.1
      content-type: application/json

      {}
      """
    Then it is refused with no CloudEvent
