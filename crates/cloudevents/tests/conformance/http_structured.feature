# The HTTP protocol binding 1.0.2, sections 3.2 and 3.3, and the JSON event format 1.0.2.

Feature: HTTP structured and batched content mode

  Scenario: an event with data in JSON
    Given an HTTP request
      """
      POST /events HTTP/1.1
      Content-Type: application/cloudevents+json; charset=UTF-8

      {
        "specversion": "1.0", "type": "com.example.order.created", "source": "/shops/7", "id": "C234-1234-1234",
        "time": "9999-12-31T23:59:59.123456789012Z", "tenant": "north", "priority": 5, "express": true,
        "datacontenttype": "application/vnd.order+json",
        "data": {"amount": 1.10, "name": "größe"}
      }
      """
    Then the mode is structured
    And the attributes are
      | specversion     | 1.0                               |
      | type            | com.example.order.created         |
      | source          | /shops/7                          |
      | id              | C234-1234-1234                    |
      | time            | 9999-12-31T23:59:59.123456789012Z |
      | tenant          | north                             |
      | priority        | 5                                 |
      | express         | true                              |
      | datacontenttype | application/vnd.order+json        |
    And the data is
      """
      {"amount": 1.10, "name": "größe"}
      """

  Scenario: null is a value of JSON (JSON format, section 3.1)
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "data": null}
      """
    Then the attributes are
      | specversion     | 1.0              |
      | type            | t                |
      | source          | /s               |
      | id              | 1                |
      | datacontenttype | application/json |
    And the data is
      """
      null
      """

  Scenario: an empty string is another one
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "data": ""}
      """
    Then the data is
      """
      ""
      """

  Scenario: an empty text
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "datacontenttype": "text/plain", "data": ""}
      """
    Then the data is
      """
      """

  Scenario: an attribute that is null is not there (JSON format, section 2.2)
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "subject": null}
      """
    Then the attributes are
      | specversion | 1.0 |
      | type        | t   |
      | source      | /s  |
      | id          | 1   |
    And there is no data

  Scenario: binary data in base64
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "datacontenttype": "image/png",
       "data_base64": "aGVsbG8="}
      """
    Then the data is
      """
      hello
      """

  Scenario: an attribute twice
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json

      {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "id": "2"}
      """
    Then it is refused with more than once

  Scenario: a batch of one
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents-batch+json

      [{"specversion": "1.0", "type": "t", "source": "/s", "id": "1", "datacontenttype": "text/csv", "data": "a,b"}]
      """
    Then the mode is batched
    And the data is
      """
      a,b
      """

  Scenario: a compressed body (RFC 9110, section 12.5.3)
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+json
      Content-Encoding: gzip

      {}
      """
    Then it is refused with Content-Encoding

  Scenario: a format that is not supported
    Given an HTTP request
      """
      POST / HTTP/1.1
      Content-Type: application/cloudevents+xml

      <event/>
      """
    Then it is refused with send JSON
