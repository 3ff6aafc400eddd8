#!/usr/bin/env python3
"""Kills the graph's leader under a stream of reads and writes, and counts: lose-a-member.py STAMP-PROGRAM EDGE CA.pem COOKIE-FILE

COOKIE-FILE is what walk.py leaves. The stamp is clinical-mdr/prod. Nothing is done by hand after the kill. It ends with 1 if a read was
refused or an acknowledged write is gone.
"""
import sys,json,ssl,urllib.request,time,threading,subprocess,os,signal
stamp,edge,ca,cookies=sys.argv[1:5]; ctx=ssl.create_default_context(cafile=ca)
cookie=json.load(open(cookies))[0]['value']
def call(m,p,b=None,csrf=''):
    r=urllib.request.Request(edge+p, data=json.dumps(b).encode() if b is not None else None, method=m, headers={'Cookie':'__Host-session='+cookie,'X-CSRF-Token':csrf,'Content-Type':'application/json'})
    try:
        with urllib.request.urlopen(r,context=ctx,timeout=40) as a: return a.status, json.loads(a.read() or b'null')
    except urllib.error.HTTPError as e: return e.code, e.read().decode()[:150]
    except Exception as e: return 0, str(e)
csrf=call('GET','/api/v1/me')[1]['csrfToken']
def status():
    o=subprocess.run([stamp,'status','clinical-mdr','--stamp','prod','--json'],capture_output=True,text=True).stdout
    return {r['name']:r for r in json.loads(o)['resources']}
acked=[]; unknown=[]; bad=[]; reads=[]; stop=False; wtimes=[]
def writer():
    n=0
    while not stop:
        n+=1; name=f'Term {os.getpid()} {n}'; t=time.time()
        s,b=call('POST','/api/v1/library',{'kind':'term','name':name,'why':'load'},csrf)
        if s==201: acked.append(name); wtimes.append(time.time())
        elif s==504: unknown.append(name)
        else: bad.append((round(time.time()-t0,2),s,str(b)[:120]))
def reader():
    while not stop:
        t=time.time(); s,b=call('GET','/api/v1/library?size=1'); reads.append((s,time.time()-t))
t0=time.time(); ts=[threading.Thread(target=f) for f in (writer,reader)]; [t.start() for t in ts]
time.sleep(3); st=status(); lead=[n for n,r in st.items() if r.get('member') and r['member']['part']=='leader'][0]
pids=st[lead]['pids']; print('leader',lead,pids); k=time.time()
for p in pids:
    try: os.kill(p,9)
    except OSError as e: print(e)
names=[]
for _ in range(12):
    st=status(); m=st['graph.main.monitor']['member']; names.append((round(time.time()-k,2), m['doing'][:140])); time.sleep(.7)
time.sleep(4); stop=True; [t.join() for t in ts]
gap=max([b-a for a,b in zip(wtimes,wtimes[1:])]); print('acked',len(acked),'unknown',len(unknown),'refused',bad[:3],len(bad)); print('longest gap between acknowledged writes %.2f s'%gap)
print('reads',len(reads),'not 200:',[r for r in reads if r[0]!=200][:3],'longest %.2f s'%max(r[1] for r in reads))
last=None
for n in names:
    if n[1]!=last: print(n)
    last=n[1]
have=set(); page=1
while True:
    s,b=call('GET',f'/api/v1/library?kind=term&size=200&page={page}'); have|={i['name'] for i in b['items']}
    if len(b['items'])<200: break
    page+=1
lost=[n for n in acked if n not in have]; print('acknowledged and lost:',lost)
for n,r in status().items():
    if r.get('member'): print(n, r['member']['part'], r['member']['term'], r['member']['synchronous'], r['member']['doing'], r['restarts'])
sys.exit(1 if lost or any(r[0]!=200 for r in reads) else 0)
