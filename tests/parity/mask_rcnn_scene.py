"""What the test of torchvision's Mask R-CNN and the process that runs that one have in common."""

CLASSES, SIZE, PROPOSALS = 6, (128, 160), 40  # the background is one of the classes
ALL = 20_000  # more draws than there are anchors, so that every one is drawn
# x1, y1, x2, y2
BOXES = ([[16, 24, 80, 88], [60, 8, 150, 60], [100, 70, 140, 120]], [[4, 4, 124, 100]])
LABELS = ([1, 5, 2], [3])
