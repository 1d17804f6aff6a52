def is_there(): return False
