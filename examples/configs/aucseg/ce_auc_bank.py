"""Cross-entropy, the AUC loss and the memory bank: AUCSeg."""

_base_ = "ce_bank.py"
model = dict(decode_head=dict(loss_decode=[dict(type="CrossEntropyLoss"), dict(type="AUCSegLoss")]))
