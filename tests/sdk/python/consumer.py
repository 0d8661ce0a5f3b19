"""A consumer built on Merge's SDK for Python, driven by tests/it/sdk.rs: a line of JSON says what to ask for, one comes back."""

import functools
import json
import sys

from merge import Merge
from merge.core import ApiError


# One for many calls, as consumers have it: its connections are kept.
@functools.cache
def client(base_url, api_key, account_token):
    return Merge(base_url=base_url, api_key=api_key, account_token=account_token)


def ask(call):
    merge = client(call["base_url"], call["api_key"], call.get("account_token"))
    sync_status = getattr(merge, call["category"]).sync_status
    options = {"max_retries": call["max_retries"]} if "max_retries" in call else None
    page = sync_status.list(cursor=call.get("cursor"), page_size=call.get("page_size"), request_options=options)
    return {"next": page.next, "results": [[model.model_id, model.status] for model in page.results]}


for line in sys.stdin:
    try:
        answer = ask(json.loads(line))
    except ApiError as error:
        answer = {
            "error": "ApiError",
            "status": error.status_code,
            "type": error.headers["content-type"],
            "body": error.body,
        }
    print(json.dumps(answer), flush=True)
