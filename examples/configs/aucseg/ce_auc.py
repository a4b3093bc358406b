"""Cross-entropy and the AUC loss."""

_base_ = "base.py"
model = dict(decode_head=dict(loss_decode=[dict(type="CrossEntropyLoss"), dict(type="AUCSegLoss")]))
