"""Amazon's own SDK on the local Amazon: what becomes of each of its 11 operations."""

import json
import logging
import sys

from spapi import SPAPIClient, SPAPIConfig
from spapi.api.messaging_v1.messaging_api import MessagingApi
from spapi.models import messaging_v1 as models
from spapi.rest import ApiException

URL, ORDER, ATTACHMENTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
US = ["ATVPDKIKX0DER"]
# A name of a method, and the class of its body.
BODIES = {
    "confirm_customization_details": "CreateConfirmCustomizationDetailsRequest",
    "create_confirm_delivery_details": "CreateConfirmDeliveryDetailsRequest",
    "create_confirm_order_details": "CreateConfirmOrderDetailsRequest",
    "create_confirm_service_details": "CreateConfirmServiceDetailsRequest",
    "create_digital_access_key": "CreateDigitalAccessKeyRequest",
    "create_legal_disclosure": "CreateLegalDisclosureRequest",
    "create_unexpected_problem": "CreateUnexpectedProblemRequest",
    "create_warranty": "CreateWarrantyRequest",
    "send_invoice": "InvoiceRequest",
}


def main() -> None:
    logging.disable()
    config = SPAPIConfig("client", "secret", "refresh", region="NA")
    client = SPAPIClient(config, oauth_endpoint=f"{URL}/auth/o2/token", endpoint=URL)
    messaging = MessagingApi(client.api_client)
    found = {name: outcome(messaging, name, cls) for name, cls in BODIES.items()}
    found["get_attributes"] = messaging.get_attributes(ORDER, US).to_dict()["buyer"]
    actions = messaging.get_messaging_actions_for_order(ORDER, US).to_dict()
    found["get_messaging_actions_for_order"] = sorted(
        link["name"] for link in actions["links"]["actions"]
    )
    print(json.dumps(found))


def outcome(messaging: MessagingApi, name: str, cls: str) -> str:
    fields: dict[str, object] = {"text": "Hello from somebody else's client."}
    if name in ATTACHMENTS:
        attachment = ATTACHMENTS[name]
        listed = models.Attachment(attachment["uploadDestinationId"], attachment["fileName"])
        fields = {"attachments": [listed]}
    try:
        getattr(messaging, name)(ORDER, US, getattr(models, cls)(**fields))
    except ApiException as error:
        return f"{error.status}: {error.body}"
    return "sent"


main()
